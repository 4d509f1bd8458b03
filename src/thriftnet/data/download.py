"""`--data cifar10` and `--data cifar100`: the official archives, downloaded once, their md5 checked at every use."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from thriftnet.data.cifar import LAYOUTS
from thriftnet.errors import DataError
from thriftnet.storage import cache_folder, storage_error

ARCHIVES = {"cifar10": LAYOUTS[0], "cifar100": LAYOUTS[1]}
_SITE = "https://www.cs.toronto.edu/~kriz"
_TIMEOUT_S = 30


def fetch(name: str, site: str = _SITE) -> Path:
    """The archive of `cifar10` or `cifar100` in the cache folder, downloaded where it is not there whole.

    The cache is the folder in THRIFTNET_CACHE, else the user's own. Raises DataError, in one line, where it cannot be
    had, and StorageError where the cache cannot be written.
    """
    import pooch
    import requests

    layout = ARCHIVES[name]
    url = f"{site}/{layout.archive}"
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet(pooch.get_logger()), _Progress(layout.archive) as progress:
            downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_S, progressbar=progress)
            pooch.retrieve(url, f"md5:{layout.md5}", fname=layout.archive, path=folder, downloader=downloader)
    except requests.exceptions.Timeout:
        reason = f"no answer within {_TIMEOUT_S} s"
    except requests.exceptions.HTTPError as error:
        reason = f"the server answers {error.response.status_code if error.response is not None else 'with an error'}"
    except requests.exceptions.RequestException:
        reason = "no connection, or it broke"
    except ValueError:
        reason = f"what arrived does not have the md5 {layout.md5}"
    except OSError as error:
        raise storage_error(folder / layout.archive, error, "nothing was kept") from None
    else:
        return folder / layout.archive
    raise DataError(
        f"could not download {url}: {reason}; fetch {layout.archive} (md5 {layout.md5}) where there is a network, then "
        f"give its path as --data or put it into {folder}"
    )


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Progress:
    """What pooch calls while it downloads, shown by rich on a terminal and nowhere else."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        console = Console(stderr=True)
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._display = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._display.add_task(f"downloading {name}", total=None)
        self.total = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def update(self, count: int) -> None:
        self._display.start()
        self._display.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self._display.reset(self._task)

    def close(self) -> None:
        self._display.stop()
