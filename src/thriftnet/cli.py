"""The command line: one verb, one short function; the work is done by the functions of the same names in `api`.

Standard output carries results (its last line is the path a script wants); progress and errors go to standard error.
Exit status: 0 done, 1 the work failed, 2 the input cannot work; 130 (Ctrl-C) or 143 (SIGTERM): stopped, and it can go
on with the command that the message names.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand

from thriftnet.errors import ESCAPING, OutOfMemoryError, ThriftnetError, UserError
from thriftnet.storage import refusals_named, storage_error, user_path

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Design, train, evaluate and ship small residual networks under a parameter budget.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at a data set.")
recipes_app = typer.Typer(invoke_without_command=True, help="List recipes, or show and compare them.")
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")
app.add_typer(recipes_app, name="recipe", hidden=True)
study_app = typer.Typer(no_args_is_help=True, help="Search a space of settings: grid, random or TPE.")
app.add_typer(study_app, name="study")


def _path_option(words: str, metavar: str = "PATH") -> Any:
    return typer.Option(help=words, metavar=metavar, parser=user_path)


RecipeArgument = Annotated[str, typer.Argument(help="Name of a packaged recipe, or a TOML file.", metavar="RECIPE")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN", parser=user_path)]
RunsArgument = Annotated[
    list[Path],
    typer.Argument(
        help="A run folder; of several the class probabilities are averaged.", metavar="RUN...", parser=user_path
    ),
]
SplitOption = Annotated[Literal["test", "validation", "train"], typer.Option(help="Which split.")]
CalibratedOption = Annotated[
    bool, typer.Option("--calibrated", help="Probabilities scaled by the temperature that `calibrate` fitted.")
]
AdaptOption = Annotated[
    bool, typer.Option("--adapt-batchnorm", help="BatchNorm statistics from the images themselves, without labels.")
]
ShiftImagesOption = Annotated[
    int | None, typer.Option("--shift-images", help="A stratified subset of so many images; default: all.", min=2)
]
_DATA = "digits, cifar10, cifar100, or a path: CIFAR folder or tar.gz, Parquet, folder of class folders, .npz."
DataOption = Annotated[
    str | None, typer.Option("--data", help=f"{_DATA} Default: $THRIFTNET_DATA, else digits.", metavar="DATA")
]
TrainDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help=f"{_DATA} Default: $THRIFTNET_DATA, else digits; with --resume the run's own data.",
        metavar="DATA",
    ),
]
RunDataOption = Annotated[
    str | None,
    typer.Option("--data", help=f"{_DATA} Default: the data that the run was trained on.", metavar="DATA"),
]
CompareDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help=f"{_DATA} Default: each run's own data, and for recipes $THRIFTNET_DATA, else digits.",
        metavar="DATA",
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(help="Images at once; default: the recipe's training.evaluation_batch_size.", min=1),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value, e.g. optimizer.lr=0.05.", metavar="KEY=VALUE")
]
AveragingOption = Annotated[
    Literal["none", "flip", "flip_shift"],
    typer.Option(help="Average over the image and its mirror image; flip_shift: each also shifted by one pixel."),
]
ScaleOption = Annotated[float, typer.Option(help="Train this share of the recipe's epochs; every number says so.")]
WidthOption = Annotated[
    float, typer.Option(help="Build this share of every width (a reduced twin of the network); every number says so.")
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track", help="Also tell wandb (Weights & Biases) or tensorboard, an extra each; give it twice for both."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of a packaged recipe, or a TOML file.")] = None,
    data: TrainDataOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs instead of the recipe's.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed instead of the recipe's.", min=0)] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Train this many seeds, from --seed on, each in OUT/seed-<n>; the same command goes on.", min=1
        ),
    ] = None,
    out: Annotated[Path | None, _path_option("The run folder to make; default: a new one under runs/.")] = None,
    resume: Annotated[
        Path | None, _path_option("Go on with this run folder from where it was last saved.", "RUN")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Most trainable parameters.", min=1)] = None,
    overrides: SetOption = None,
    protocol: Annotated[
        Literal["paper", "honest"],
        typer.Option(help="honest: a tenth held out for validation (or what you set), the test split sealed."),
    ] = "paper",
    scale: ScaleOption = 1.0,
    width: WidthOption = 1.0,
    track: TrackOption = None,
) -> None:
    """Train a recipe into a new run folder, or go on with one; the last line printed is the run folder."""
    from thriftnet import api
    from thriftnet.distributed.processes import one_voice

    with one_voice() as processes:
        with processes.together():
            given = [
                name
                for name, value in (
                    ("RECIPE", recipe),
                    ("--epochs", epochs),
                    ("--seed", seed),
                    ("--seeds", seeds),
                    ("--out", out),
                    ("--budget", budget),
                    ("--set", overrides),
                    ("--protocol", protocol if protocol != "paper" else None),
                    ("--scale", scale if scale != 1 else None),
                    ("--width", width if width != 1 else None),
                    ("--track", track),
                )
                if value is not None
            ]
            if resume is not None and given:
                raise UserError(f"--resume goes on with the run's own recipe; remove {', '.join(given)}")
            if resume is None and recipe is None:
                raise UserError("name a recipe (`thriftnet recipes` lists them) or a run to --resume")
        how: dict[str, Any] = {
            "out": out,
            "epochs": epochs,
            "seed": seed,
            "budget": budget,
            "overrides": overrides or (),
            "protocol": protocol,
            "scale": scale,
            "width": width,
            "track": track or (),
        }
        if recipe is not None and seeds is not None:
            trained = api.train_seeds(recipe, data, seeds=seeds, tell=_say, **how)
            typer.echo(trained.summary())
            typer.echo(str(trained.folder))
            return
        if recipe is None:
            assert resume is not None
            run = api.resume(resume, data)
        else:
            run = api.train(recipe, data, **how)
        if processes.main:
            typer.echo(run.summary())
            typer.echo(str(run.path))


@app.command()
def evaluate(
    run: RunsArgument,
    split: SplitOption = "test",
    data: RunDataOption = None,
    tta: AveragingOption = "none",
    weights: Annotated[Literal["selected", "last"], typer.Option(help="Which epoch's weights.")] = "selected",
    calibrated: CalibratedOption = False,
    adapt_batchnorm: AdaptOption = False,
    batch_size: BatchSizeOption = None,
    shift: Annotated[bool, typer.Option("--shift", help="Under 19 corruptions x 5 severities as well.")] = False,
    shift_images: ShiftImagesOption = None,
    html: Annotated[Path | None, _path_option("With --shift: one HTML page about it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a run on a split; `--split test` opens the sealed test set and logs it in the run."""
    from thriftnet import api

    how: dict[str, Any] = {
        "tta": tta,
        "weights": weights,
        "calibrated": calibrated,
        "adapt_batchnorm": adapt_batchnorm,
        "batch_size": batch_size,
    }
    measured: Any
    if shift:
        measured = api.evaluate_shift(run, split, data=data, images=shift_images, html=html, say=_say, **how)
    elif shift_images is not None or html is not None:
        raise UserError(f"{'--html' if shift_images is None else '--shift-images'} belongs to --shift; add that")
    else:
        measured = api.evaluate(run, split, data=data, **how)
    _show(measured, as_json)
    if not as_json:
        typer.echo(str(html or measured.path))


@app.command()
def remedies(
    run: RunsArgument,
    split: SplitOption = "test",
    data: RunDataOption = None,
    shift_images: ShiftImagesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what raises accuracy on shifted data: each remedy alone, and all of them together."""
    from thriftnet import api

    _show(api.remedies(run, split, data=data, images=shift_images, say=_say), as_json)


@app.command()
def calibrate(run: RunArgument, data: RunDataOption = None) -> None:
    """Fit a run's temperature on its validation images, for `--calibrated` of evaluate and predict."""
    from thriftnet import api

    fitted = api.calibrate(run, data=data)
    typer.echo(fitted.summary())
    typer.echo(str(run / "temperature.json"))


@app.command()
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(help="Run folders, folders of seed runs, recipes; two or more.", metavar="RUN|RECIPE..."),
    ],
    split: Annotated[Literal["test", "validation", "train"], typer.Option(help="Which split.")] = "test",
    data: CompareDataOption = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each recipe; missing ones are trained.", min=1)] = None,
    out: Annotated[
        Path | None, _path_option("Where recipes are trained: OUT/RECIPE/seed-<n>; default: under runs/.")
    ] = None,
    overrides: SetOption = None,
    protocol: Annotated[
        Literal["paper", "honest"], typer.Option(help="Protocol under which recipes are trained, as in `train`.")
    ] = "paper",
    html: Annotated[Path | None, _path_option("Also write one HTML page.", "FILE")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare accuracies on the same images: intervals, paired tests, and whether a difference is noise."""
    from thriftnet import api

    compared = api.compare(
        list(sides),
        split,
        data=data,
        seeds=seeds,
        out=out,
        overrides=overrides or (),
        protocol=protocol,
        html=html,
        tell=_say,
    )
    typer.echo(json.dumps(compared.as_dict(), indent=2) if as_json else compared.summary())
    if html is not None:
        typer.echo(str(html), err=as_json)


class _SeveralThenOne(TyperCommand):
    """A command of several arguments and one more, which is what is missing where only one was given.

    The parser gives that to the last, and would ask for the several.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except typer.BadParameter as error:
            several, one = self._arguments(ctx)
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
            if not given.get(several.name) and given.get(one.name) and error.param is several:
                error.param = one
            raise

    def _arguments(self, ctx: Any) -> list[Any]:
        return [each for each in self.get_params(ctx) if each.param_type_name == "argument"]


@app.command(cls=_SeveralThenOne)
def predict(
    run: RunsArgument,
    images: Annotated[
        Path,
        typer.Argument(
            help="Pickle of data and ids, folder of images, image, Parquet, .npz, or one file of CIFAR (test.bin).",
            metavar="INPUT",
            parser=user_path,
        ),
    ],
    out: Annotated[Path, _path_option("The CSV file to write: ID,Label.")],
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Add a column a class.")] = False,
    names: Annotated[bool, typer.Option("--names", help="Class names instead of numbers as Label.")] = False,
    tta: AveragingOption = "none",
    calibrated: CalibratedOption = False,
    adapt_batchnorm: AdaptOption = False,
    batch_size: BatchSizeOption = None,
) -> None:
    """Predict the classes of unlabelled images into a CSV file."""
    from thriftnet import api

    predictions = api.predict(
        run, images, out=out, probabilities=probabilities, names=names, tta=tta, calibrated=calibrated,
        adapt_batchnorm=adapt_batchnorm, batch_size=batch_size,
    )  # fmt: skip
    for note in predictions.notes:
        typer.echo(note, err=True)
    typer.echo(f"{len(predictions.ids):,} predictions")
    typer.echo(str(out))


@app.command()
def report(
    run: RunArgument,
    out: Annotated[Path | None, _path_option("The HTML file; default: report.html in the run folder.")] = None,
) -> None:
    """Write one self-contained HTML report of a run."""
    from thriftnet import api

    typer.echo(str(api.report(run, out=out)))


@app.command()
def reproduce(
    paper: Annotated[
        str, typer.Argument(help="xu, li, liu, ramavath, tirumalasetty, one recipe of theirs, or all.")
    ] = "all",
    data: DataOption = None,
    out: Annotated[
        Path,
        _path_option("The folder of runs and ledger; given again, it goes on. joined/ in it: other machines' ledgers."),
    ] = Path("reproduction"),
    scale: Annotated[float, typer.Option(help="Share of every recipe's epochs, above 0 to 1.")] = 1.0,
    width: Annotated[
        float | None, typer.Option(help="Share of every width. Default: 0.25 for directions, 1 for rows.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each training.", min=1)] = 3,
    rows: Annotated[bool, typer.Option("--rows/--no-rows", help="Accuracies and curves of the papers.")] = True,
    directions: Annotated[
        bool, typer.Option("--directions/--no-directions", help="Whether A is better than B, on narrow networks.")
    ] = True,
    train_images: Annotated[int | None, typer.Option(help="Train on this many images only.", min=2)] = None,
    hours: Annotated[float | None, typer.Option(help="Stop after the first epoch past this time.", min=0.0)] = None,
    write_only: Annotated[
        bool, typer.Option("--write-only", help="Train nothing: show the plan and write the ledger of what is there.")
    ] = False,
) -> None:
    """Train what the papers' claims need and --out lacks, then write the ledger: claimed beside measured."""
    from thriftnet import api

    ledger = api.reproduce(
        paper,
        data,
        out=out,
        scale=scale,
        width=width,
        seeds=seeds,
        rows=rows,
        directions=directions,
        train_images=train_images,
        hours=hours,
        write_only=write_only,
        say=lambda line: typer.echo(line, err=True),
    )
    for line in ledger.plan.summary() if write_only or not ledger.complete else ():
        typer.echo(line)
    typer.echo(str(ledger.path))


@app.command()
def check(run: RunArgument) -> None:
    """Compare every file of a run with the SHA-256 it was written with; name what is damaged or missing."""
    from thriftnet import api

    whole, unlisted = api.check(run)
    typer.echo(f"{whole} files are as they were written")
    if unlisted:
        typer.echo(f"without a checksum: {', '.join(unlisted)}")
    typer.echo(str(run))


@app.command()
def summary(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    classes: Annotated[int, typer.Option(help="Number of classes.", min=2)] = 10,
    channels: Annotated[Literal["1", "3"], typer.Option(help="Input channels.")] = "3",
    side: Annotated[int, typer.Option(help="Image side in pixels.", min=16, max=256)] = 32,
    width: WidthOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Print the layer table, the parameters and the multiply-accumulates of a recipe's network."""
    from thriftnet import api

    table = api.summary(
        recipe, overrides or (), num_classes=classes, in_channels=int(channels), image_side=side, width=width
    )
    typer.echo(json.dumps(table.as_dict(), indent=2) if as_json else table.table())


@app.command()
def landscape(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one network.", metavar="RUN...", parser=user_path)],
    data: RunDataOption = None,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Whose images.")] = "train",
    images: Annotated[int, typer.Option(help="How many of them, always the same.", min=1)] = 1000,
    grid: Annotated[int, typer.Option(help="Points along each side of the grid, odd.", min=3)] = 15,
    lines: Annotated[int, typer.Option(help="Directions of the one-dimensional curves.", min=1)] = 3,
    span: Annotated[float, typer.Option(help="How far to look, in norms of each filter.")] = 1.0,
    rho: Annotated[float, typer.Option(help="Radius of adaptive sharpness.")] = 0.1,
    steps: Annotated[int, typer.Option(help="Steps of the search for the sharpest point.", min=1)] = 10,
    batchnorm: Annotated[
        Literal["stored", "re-estimated"], typer.Option(help="BatchNorm's statistics: the run's, or new ones a point.")
    ] = "stored",
    seed: Annotated[int, typer.Option(help="Of the directions.", min=0)] = 0,
    out: Annotated[Path | None, _path_option("The folder to write; default: one beside the first run.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the loss landscape around runs of one network and measure how sharp their minima are."""
    from thriftnet import api

    measured = api.landscape(
        runs,
        data=data,
        split=split,
        images=images,
        grid=grid,
        lines=lines,
        span=span,
        rho=rho,
        steps=steps,
        batchnorm=batchnorm,
        seed=seed,
        out=out,
    )
    if as_json:
        typer.echo(json.dumps(measured.as_dict(), indent=2))
    else:
        typer.echo(measured.summary())
        typer.echo(str(measured.page))


@recipes_app.callback()
def recipes_list(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the packaged recipes with paper, parameters, epochs and claimed accuracy."""
    if context.invoked_subcommand is not None:
        return
    from thriftnet import api

    rows = api.recipe_table()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    typer.echo(f"{'name':<{width}}  {'parameters':>10}  {'epochs':>6}  {'claimed':<20}  paper")
    for row in rows:
        claims = {split: row[f"claimed_{split}_accuracy"] for split in ("test", "validation")}
        claimed = next((f"{claim:.2f} % {split}" for split, claim in claims.items() if claim is not None), "-")
        typer.echo(
            f"{row['name']:<{width}}  {row['parameters']:>10,}  {row['epochs']:>6}  {claimed:<20}  "
            f"{row['paper'] or '(ours)'}"
        )


@recipes_app.command("show")
def recipes_show(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    protocol: Annotated[Literal["paper", "honest"], typer.Option(help="Which protocol.")] = "paper",
    source: Annotated[
        bool, typer.Option("--source", help="The files as written, with the reasons for values.")
    ] = False,
) -> None:
    """Print every resolved value of a recipe as TOML, or with --source its own file and those that it inherits."""
    from thriftnet import api
    from thriftnet import recipe as recipes

    if not source:
        typer.echo(recipes.to_toml(api.load_recipe(recipe, overrides or (), protocol)), nl=False)
        return
    if overrides or protocol != "paper":
        raise UserError("--source prints files as they are written; leave out --set and --protocol")
    typer.echo("\n".join(f"# --- {name}.toml ---\n{text}" for name, text in recipes.sources(recipe)), nl=False)


@recipes_app.command("diff")
def recipes_diff(first: RecipeArgument, second: RecipeArgument) -> None:
    """Print the resolved values in which two recipes differ."""
    from thriftnet import recipe as recipes

    for key, left, right in recipes.differences(recipes.load(first), recipes.load(second)):
        typer.echo(f"{key}: {json.dumps(left)} -> {json.dumps(right)}")


@data_app.command("info")
def data_info(
    data: Annotated[str, typer.Argument(help="What --data takes.", metavar="DATA")],
    out: Annotated[Path, _path_option("Where the contact sheet goes.")] = Path("contact-sheet.png"),
    as_json: JsonOption = False,
) -> None:
    """Print counts per class, shapes, mean, std and hash of a data set, and write a contact sheet."""
    from thriftnet import api

    info = api.data_info(data, contact_sheet=out)
    typer.echo(json.dumps(info.as_dict(), indent=2) if as_json else info.text())
    typer.echo(str(out), err=as_json)


def _show(result: Any, as_json: bool) -> None:
    typer.echo(json.dumps(result.as_dict(), indent=2) if as_json else result.summary())


def _say(line: str) -> None:
    typer.echo(line, err=True)


StorageOption = Annotated[
    str | None, typer.Option(help="An Optuna storage instead of the journal in the folder.", metavar="URL")
]


@study_app.command("run")
def study_run(
    study: Annotated[str, typer.Argument(help="Name of a packaged study, or a TOML file.", metavar="STUDY")],
    data: DataOption = None,
    out: Annotated[Path | None, _path_option("The study's folder; default: studies/NAME.")] = None,
    overrides: SetOption = None,
    scale: ScaleOption = 1.0,
    width: WidthOption = 1.0,
    trials: Annotated[int | None, typer.Option(help="Trials instead of the study's.", min=1)] = None,
    engine: Annotated[
        Literal["process", "processes", "ray"],
        typer.Option(help="Train in this process, in several here, or on the machines of a Ray cluster."),
    ] = "process",
    workers: Annotated[
        int | None, typer.Option(help="Trials at the same time (processes, ray); default: 2.", min=1)
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="ray: HOST:PORT of the cluster, auto, or local for one made here.")
    ] = None,
    storage: StorageOption = None,
    track: TrackOption = None,
) -> None:
    """Run a study, or go on with it; the last line printed is its folder."""
    from thriftnet import api
    from thriftnet.reporting.study_report import study_text

    facts = api.study_run(
        study,
        data,
        out=out,
        overrides=overrides or (),
        scale=scale,
        width=width,
        trials=trials,
        engine=engine,
        workers=workers,
        address=address,
        storage=storage,
        track=track or (),
        say=lambda line: typer.echo(line, err=True),
    )
    typer.echo(study_text(facts))
    typer.echo(facts.folder)


@study_app.command("show")
def study_show(
    folder: Annotated[Path, typer.Argument(help="A study's folder.", metavar="FOLDER", parser=user_path)],
    html: Annotated[Path | None, _path_option("Write the study's page into this file.")] = None,
    storage: StorageOption = None,
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Draw into FOLDER/figures; without, FOLDER is only read.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Print the trials of a study, its best setting, what matters and what pruning saved; draw its figures."""
    from thriftnet import api
    from thriftnet.reporting.study_report import study_text

    facts = api.study_show(folder, storage=storage, html=html, figures=figures)
    typer.echo(json.dumps(facts.as_dict(), indent=2) if as_json else study_text(facts))
    if figures and facts.best is not None:  # without a completed trial nothing can be drawn
        typer.echo(f"figures: {folder / 'figures'}", err=as_json)
    if html is not None:
        typer.echo(str(html), err=as_json)


@study_app.command("list")
def study_list(as_json: JsonOption = False) -> None:
    """List the packaged studies with recipe, sampler and number of trials."""
    from thriftnet import api

    rows = api.study_table()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(
            f"{row['name']:<16}  {row['recipe']:<18}  {row['sampler']:<6}  {row['trials'] or '-':>6}  {row['summary']}"
        )


def main() -> None:
    """Entry point: errors raised on purpose become one line on standard error and an exit status."""
    if "WORLD_SIZE" in os.environ:  # a lost process is told of in a line, not in torch's pages of C++ frames
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold bytes that no encoding has
            stream.reconfigure(errors=ESCAPING)
    try:
        with refusals_named():
            app(prog_name="thriftnet")
    except ThriftnetError as error:
        _fail(error)
    except (OSError, MemoryError, RuntimeError) as error:
        _out_of_memory(error)
        if not isinstance(error, OSError):
            raise
        # Written files have a StorageError of their own; a full disk without a file's name is standard output's.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or error.filename is not None:
            raise
        _fail(storage_error(Path("standard output"), error, "files already written are complete"))


def _out_of_memory(error: Exception) -> None:
    """Fail where an error is one of memory that nobody could say more about."""
    from thriftnet.memory import is_out_of_memory, what_ran_out

    if is_out_of_memory(error):
        what = what_ran_out(error).removesuffix(",")
        _fail(
            OutOfMemoryError(
                f"{what}; files already written are complete; use a machine with more memory, or less data"
            )
        )


def _fail(error: ThriftnetError) -> NoReturn:
    print(f"thriftnet: {error}", file=sys.stderr)
    sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
