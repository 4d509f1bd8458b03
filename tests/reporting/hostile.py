"""Names as an attacker would give them; `canary` is what their scripts would set, and the host what they would ask."""

SET = "window.canary=1"
HOST = "http://192.0.2.1"  # reserved for documentation: nobody answers

NAMES = (
    f"<script>{SET}</script>",
    f"</script><script>{SET}</script>",
    f"</style><img src=x onerror={SET}>",
    f'"><img src="x" onerror="{SET}">',
    f"'><svg onload='{SET}'>",
    f'" onmouseover="{SET}" onfocus="{SET}" autofocus="',
    f"--><svg onload={SET}>",
    f"--!><img src=x onerror={SET}>",
    f"]]><script>{SET}</script>",
    f"</title><script>{SET}</script>",
    f"</textarea></pre></table><script>{SET}</script>",
    f'<iframe srcdoc="<script>parent.{SET.removeprefix("window.")}</script>"></iframe>',
    f"javascript:{SET}",
    f"<a href='javascript:{SET}'>",
    f"&lt;script&gt;{SET}&lt;/script&gt;",
    f"{{{{ 7 * 7 }}}}{{% include '/etc/passwd' %}}{SET}",
    f"\u2028{SET}//",
    f'<meta http-equiv="refresh" content="0;url={HOST}">',
    f'<link rel="stylesheet" href="{HOST}/a.css"><base href="{HOST}">',
    f"background:url({HOST}/a.png);}}@import '{HOST}/a.css';",
    f"<image href='{HOST}/a.svg'><use href='{HOST}/a.svg#b'>",
    "\u202egnp.exe",
    "$\\frac{a}{b}$ \\input{/etc/passwd} %s %(x)s {0}",
    "zero \x00 bell \x07 line\nfeed \r tab \t",
    "not text: \udcff",
    "",
)
