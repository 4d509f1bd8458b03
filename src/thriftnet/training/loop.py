"""The training loop: epochs of `train_step`, evaluation, selection, and states on disk to go on from.

Everything random is a function of (seed, epoch, step, image), and everything else that the next epoch depends on is in
the resume state, so a resumed run continues as the uninterrupted one would have.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet import memory
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.augment.mixing import Targets
from thriftnet.augment.resizing import check_stages
from thriftnet.config import RecipeConfig
from thriftnet.config.training import MOST_BATCH_IMAGES
from thriftnet.data.batches import smallest_batch
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.prepare import TrainingData, prepare
from thriftnet.distributed.processes import ALONE, Processes
from thriftnet.errors import (
    Interrupted,
    NonFiniteLossError,
    OutOfMemoryError,
    ProcessLostError,
    RecipeError,
    RunFolderError,
    StorageError,
)
from thriftnet.evaluation.predict import predict_logits
from thriftnet.models.budget import trainable_parameters
from thriftnet.models.build import build_model, build_on_meta, check_recipe_network
from thriftnet.models.stem import start_epoch, whiten
from thriftnet.models.summary import single_pixel_norm, summarize
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import build_optimizer, set_rates
from thriftnet.optim.lookahead import Lookahead
from thriftnet.optim.perturbation import has_begun
from thriftnet.optim.schedules import Schedule
from thriftnet.training import outcome, seen_images
from thriftnet.training.batches import Batches, EpochOfBatches, Raw
from thriftnet.training.checkpoint import (
    FoundState,
    Position,
    generator_states,
    restore_generators,
)
from thriftnet.training.compiled import compiled
from thriftnet.training.graphs import Graphs
from thriftnet.training.guard import Guard
from thriftnet.training.interruption import StopRequest, watch_signals
from thriftnet.training.outcome import EVALUATED_SPLIT, Selection
from thriftnet.training.progress import STEPS_PER_REPORT, Display, Reading, SilentDisplay
from thriftnet.training.run_folder import RunFolder, UnwrittenRunFolder
from thriftnet.training.state import TrainingState, checked_state, learned, reached, restore_learned
from thriftnet.training.step import Learner, train_step

EVALUATED_AT_ONCE = 2000
"""Images that a GPU evaluates at once at least; it needs many to be busy, and the result is the same."""
FEW_STEPS = 100
"""Updates of a whole training below which there is a warning: a quarter of `fast`'s on CIFAR-10, the fewest of ours."""
SAVE_DUE = 1  # beside the numbers of SIGINT and SIGTERM, which are higher and so come first


def fit(
    recipe: RecipeConfig,
    source: Source,
    folder: RunFolder,
    display: Display,
    resume: bool = False,
    processes: Processes = ALONE,
) -> TrainingData:
    """Train `recipe` on `source` into `folder`; with `resume`, go on from the newest state stored there that is whole.

    Several `processes` all call it and train as one would; only the main one writes to `folder` and shows anything.

    Returns what was trained on.

    Raises BudgetError or RecipeError before any data is read, DataError for unusable data, RunFolderError for a resume
    that does not fit or a folder in use, NonFiniteLossError before the update that would have spread it, Interrupted
    after a signal, ProcessLostError where another process ended, OutOfMemoryError.
    """
    with processes.connected(), memory.named(lambda: _no_memory_around_steps(folder)), ExitStack() as held:
        return _fit(recipe, source, folder, display, resume, processes, held)


def _fit(
    recipe: RecipeConfig,
    source: Source,
    folder: RunFolder,
    display: Display,
    resume: bool,
    processes: Processes,
    held: ExitStack,
) -> TrainingData:
    """`fit`, with what it has to give back in `held`: the folder's lock."""
    if not processes.main:
        folder, display = UnwrittenRunFolder(folder.path), SilentDisplay()
    with processes.together():
        check_recipe_network(recipe)
        _check_shards(recipe, processes)
        runtime = runtimes.resolve(recipe.runtime, processes.local_rank, processes.local_world_size)
    with processes.together():
        if not resume:
            folder.make()
        held.enter_context(folder.only_writer())
        if not resume:
            folder.create()
    try:
        with processes.together():
            data = prepare(source, recipe.data, recipe.training.selection, recipe.training.split_seed)
            run = _Run(recipe, runtime, data, source, folder, processes)
        run.connect()
        found = processes.from_main(lambda: folder.find_resume_state() if resume and folder.has_progress else None)
    except BaseException:
        if not resume:
            folder.discard()
        raise
    try:
        if found is not None:
            with processes.together():
                run.restore(source, found)
        with processes.together(), folder.as_one():
            if found is not None:
                for name, message in found.refused:
                    folder.log("damaged state left out", file=name, message=message, instead=found.name)
                epoch, step = run.saved
                folder.log("resumed", epoch=epoch, step=step, environment=run.environment())
            else:
                run.describe(source)
                folder.log("started", recipe=recipe.name, seed=recipe.training.seed)
            for reason in (*run.runtime.reasons, *run.batches.notes):
                folder.log("automatic choice", reason=reason)
        display.start(
            [
                f"{recipe.name}: {run.parameters:,} trainable parameters",
                *([f"{processes.world_size} processes share each batch"] if processes.several else []),
                *(found.notes if found is not None else []),
                *source.notes,
                *data.notes,
                *run.warnings(),
                *run.runtime.reasons,
                *run.batches.notes,
            ],
            recipe.training.epochs,
            run.schedule.steps_per_epoch,
            len(run.history),
        )

        def last_words() -> str:
            display.stop()
            return run.what_is_saved()

        with watch_signals() as request, processes.connected(last_words):
            run.train(display, request)
    except (StorageError, ProcessLostError, OutOfMemoryError) as error:
        raise type(error)(f"{error}; {run.what_is_saved()}") from None
    finally:
        display.stop()
    return data


def _no_memory_around_steps(folder: RunFolder) -> str:
    return (
        f"before or between the steps of a training, where no batch size counts; what {folder.path} holds is safe; "
        "use a machine with more memory, or fewer images (data.train_images)"
    )


def _check_shards(recipe: RecipeConfig, processes: Processes) -> None:
    """Raise RecipeError where a whole batch would leave a process without an image."""
    batch_size, count = recipe.training.batch_size, processes.world_size
    if batch_size < count:
        raise RecipeError(
            f"training.batch_size = {batch_size} is shared by {count} processes, an image each at least; start at most "
            f"{batch_size}, or raise training.batch_size"
        )


class _Run:
    """The moving parts of one training, between `describe` or `restore` and the last epoch."""

    def __init__(
        self,
        recipe: RecipeConfig,
        runtime: runtimes.Runtime,
        data: TrainingData,
        source: Source,
        folder: RunFolder,
        processes: Processes = ALONE,
    ) -> None:
        self.recipe, self.data, self.folder, self.processes = recipe, data, folder, processes
        training = recipe.training
        self.batches = Batches(recipe, data, runtime, processes)
        runtime = runtimes.for_training(runtime, recipe.runtime, self._flop, processes.several)
        self.display: Display = SilentDisplay()
        channels = data.train.images.shape[1]
        check_stages(training.progressive, data.train.images.shape[2])
        runtimes.seed_everything(training.seed, epoch=0)
        network = build_model(recipe.model, channels, len(data.class_names), recipe.name)
        whiten(network, data.train.images, data.mean, data.std)
        self.parameters = trainable_parameters(network)  # now: some may be frozen in a later epoch
        if processes.several and recipe.runtime.sync_batchnorm:
            from thriftnet.distributed.batchnorm import synchronise_batchnorm  # loads torch's compiler

            synchronise_batchnorm(network, runtime.device)
        self.network = runtime.place(network)
        lookahead = Lookahead(self.network, recipe.lookahead) if recipe.lookahead is not None else None
        average = WeightAverage(self.network, training.ema_decay) if training.ema_decay is not None else None
        runtime, self.forward, self.preparing_s = self._compiled(runtime)
        self.runtime = runtime
        self.learner = Learner(
            network=self.forward,
            optimizer=build_optimizer(
                self.network,
                recipe.optimizer,
                runtime.device,
                recipe.muon,
                # bf16 is chosen where it is fast; fp16 has too small a range for the orthogonalisation.
                torch.bfloat16 if runtime.precision == "bf16" else torch.float32,
            ),
            optimizer_config=recipe.optimizer,
            perturbation=recipe.perturbation,
            label_smoothing=training.label_smoothing,
            average=average,
            scaler=torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16"),
            runtime=runtime,
            lookahead=lookahead,
            processes=processes,
            consistency_weight=recipe.augment.consistency_weight,
            guard=Guard(runtime.device, deferred=runtime.device.type == "cuda"),
            graphs=self._graphs(runtime),
        )
        # The only place where training opens the test split: a recipe that selects on it, to reproduce a paper.
        self.test = source.test() if training.selection == "test" else None
        self.schedule = Schedule(
            config=recipe.schedule,
            base_lr=recipe.optimizer.lr,
            epochs=training.epochs,
            steps_per_epoch=self.batches.steps_per_epoch,
        )
        self.held = {"validation": self._near(data.validation), "test": self._near(self.test)}
        self.state = TrainingState()
        self.saved = (0, 0)  # completed epochs, steps of the next one
        self.saved_at = time.monotonic()

    def _near(self, held: LabelledImages | None) -> LabelledImages | None:
        """The images where those of training are, so that evaluation copies nothing."""
        return None if held is None else LabelledImages(held.images.to(self.batches.home), held.labels)

    def _flop(self) -> float:
        """Operations of the whole training: two a multiply-accumulate, and backward is twice a forward pass."""
        side, training = self.data.train.images.shape[2], self.recipe.training
        channels, classes = self.data.train.images.shape[1], len(self.data.class_names)
        network = build_on_meta(self.recipe.model, channels, classes)
        seen = self.batches.shown * self.batches.views * training.epochs
        return 6.0 * summarize(network, (channels, side, side)).macs * seen

    def _compiled(self, runtime: runtimes.Runtime) -> tuple[runtimes.Runtime, nn.Module, float]:
        """(the runtime with what was found out, the network to train, the seconds it took)."""
        if not runtime.compile:
            return runtime, self.network, 0.0
        started, training = time.perf_counter(), self.recipe.training
        images = self.data.train.images
        side = self.batches.side_px(1) or images.shape[2]
        count = self.processes.shard(min(training.batch_size, self.batches.shown))
        shape = ((count.stop - count.start) * self.batches.views, images.shape[1], side, side)
        required = self.recipe.runtime.compile == "yes"
        network, line = compiled(self.network, runtime, shape, required)
        runtime = replace(runtime, compile=network is not None, reasons=(*runtime.reasons, line))
        # A compiled module has a length, which may be an error to ask for.
        return runtime, self.network if network is None else network, time.perf_counter() - started

    def _graphs(self, runtime: runtimes.Runtime) -> Graphs | None:
        if not runtime.cuda_graphs:
            return None
        full_batch = min(self.recipe.training.batch_size, self.batches.shown)
        required = self.recipe.runtime.cuda_graphs == "yes"
        return Graphs(runtime.device, full_batch, lambda: list(self.network.buffers()), self._note, required)

    def _note(self, line: str) -> None:
        """Tell what was found out in the middle of a training."""
        self.folder.log("automatic choice", reason=line)
        self.display.note(line)

    @property
    def evaluated_network(self) -> nn.Module:
        """The average where the recipe keeps one, else Lookahead's slow weights, else the network itself."""
        for keeper in (self.learner.average, self.learner.lookahead):
            if keeper is not None:
                return keeper.network
        return self.network

    def warnings(self) -> list[str]:
        """What a person should know before a training begins."""
        found, training, steps = [], self.recipe.training, self.schedule.total_steps
        if training.selection == "test":
            found.append(
                "training.selection = 'test': the test images choose the epoch that is kept, so its test accuracy is "
                "test-selected; --protocol honest seals them"
            )
        if steps < FEW_STEPS:
            found.append(
                f"only {steps} optimizer steps in all, {self.schedule.steps_per_epoch} an epoch of "
                f"{self.batches.shown:,} images: little can be learned in them; lower training.batch_size, "
                f"{training.batch_size:,}, or raise --epochs"
            )
        return found

    def connect(self) -> None:
        """Agree with the other processes on what is trained, and from here on average gradients with them.

        Raises UserError where they were started differently, RecipeError for a last batch too small to share or to
        normalise.
        """
        self._check_normalised()
        training, count, shown = self.recipe.training, self.processes.world_size, self.batches.shown
        fewest = min(shown % training.batch_size or training.batch_size, shown)
        if fewest < count and not training.drop_last and not self.recipe.runtime.sync_batchnorm:
            raise RecipeError(
                f"runtime.sync_batchnorm = false needs an image in each of {count} processes, and the last batch has "
                f"{fewest}; set training.drop_last = true or runtime.sync_batchnorm = true"
            )
        self.processes.require_same(
            {
                "recipe": recipes.content_hash(self.recipe),
                "data fingerprint": self.data.fingerprint,
                "validation split": self.data.validation_fingerprint,
                "kind of device": self.runtime.device.type,
                "precision": self.runtime.precision,
            }
        )
        self._average_gradients()

    def _identity(self) -> dict[str, str | None]:
        """What a training is of; whoever goes on with it must have the same."""
        return {
            "recipe": recipes.content_hash(self.recipe),
            "data": self.data.fingerprint,
            "validation split": self.data.validation_fingerprint,
        }

    def _check_normalised(self) -> None:
        """Raise RecipeError where a BatchNorm would get a single value: one image of one pixel has no variance."""
        training, shown = self.recipe.training, self.batches.shown
        shared = 1 if self.recipe.runtime.sync_batchnorm else self.processes.world_size

        def fewest(batch_size: int, drop_last: bool) -> int:
            return smallest_batch(shown, batch_size, drop_last) // shared * self.batches.views

        if fewest(training.batch_size, training.drop_last) != 1:
            return
        channels, full = self.data.train.images.shape[1:3]
        network = build_on_meta(self.recipe.model, channels, len(self.data.class_names))
        sides = {self.batches.side_px(epoch) or full for epoch in range(1, training.epochs + 1)}
        found = ((side, single_pixel_norm(network, channels, side)) for side in sides)
        norms = {side: norm for side, norm in found if norm is not None}
        if not norms:
            return
        ways = [] if fewest(training.batch_size, True) < 2 else ["training.drop_last = true"]
        others = sorted(range(1, MOST_BATCH_IMAGES + 1), key=lambda size: abs(size - training.batch_size))
        size = next((size for size in others if fewest(size, training.drop_last) > 1), None)
        ways += [] if size is None else [f"training.batch_size = {size}"]
        raise RecipeError(
            f"the smallest batch of an epoch has one image{' in a process' if shared > 1 else ''}, of which "
            f"{norms[min(norms)]} gets one pixel (images of {min(norms)} px), and BatchNorm needs two values; "
            f"{'train on more images' if not ways else 'set ' + ' or '.join(ways)}"
        )

    def _average_gradients(self) -> None:
        """Average the gradients of what is trained now; to be called again when that changes."""
        if self.processes.several:
            self.learner = replace(self.learner, network=self.forward)
            gc.collect()  # what averaged until now takes its hooks off the parameters when it goes
            averaging = self.processes.averaging(self.forward, self.runtime.device)
            self.learner = replace(self.learner, network=averaging.train())

    def environment(self) -> dict[str, Any]:
        """environment.json: what a number measured here depends on."""
        return runtimes.environment(self.runtime) | self.processes.describe(self.runtime.device)

    def describe(self, source: Source) -> None:
        """Write what is known before the first step."""
        self.folder.write_json("environment.json", self.environment())
        self._write_data(source)
        self.folder.write_recipe(self.recipe)  # last: with it the folder is a run that can be gone on with

    def _write_data(self, source: Source) -> None:
        self.folder.write_json("data.json", outcome.describe_data(source, self.data))
        self.folder.write_bytes(seen_images.NAME, seen_images.encoded(self.data))

    def train(self, display: Display, request: StopRequest) -> None:
        """Epochs until the recipe's last, an early stop or a signal."""
        self.display = display
        while self.status == "running":
            row = self._train_epoch(len(self.history) + 1, display, request)
            self.history.append(row)
            selected = self._select(row)
            if selected:
                self._keep_weights()
            self._save()
            display.epoch(row, selected)
        self.folder.log("finished", status=self.status, epoch=len(self.history))

    def restore(self, source: Source, found: FoundState) -> None:
        """Take up a stored state, and write again what follows from it.

        Raises RunFolderError where recipe or data differ.
        """
        stored = found.state
        expected = self._identity()
        for what, fingerprint in expected.items():
            if stored.get(what) != fingerprint:
                raise RunFolderError(
                    f"{self.folder.path} was trained with another {what} ({stored.get(what)}, now {fingerprint}); "
                    f"resume with the same {what}, or start a new run"
                )
        try:
            restore_learned(stored, self.network, self.learner)
            self.state = checked_state(
                stored,
                self.recipe.training.epochs,
                self.schedule.steps_per_epoch,
                self.evaluated_network.state_dict(),
            )
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            if memory.is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RunFolderError(
                f"{self.folder.path / found.name} does not fit this recipe ({reason}); restore it or train again"
            ) from None
        position = self.state.position
        self.saved = (len(self.history), position.step if position is not None else 0)
        # A kill between two files of an epoch leaves them apart, and the data may have moved.
        with self.folder.as_one():
            self._write_data(source)
            if self.history:
                self._write_outcome()

    def _train_epoch(self, epoch: int, display: Display, request: StopRequest) -> dict[str, Any]:
        training = self.recipe.training
        begun = self._begin(epoch)
        self.learner.network.train()
        if start_epoch(self.network, epoch):
            self._average_gradients()
            if self.learner.graphs is not None:
                self.learner.graphs.forget()
        first_step = (epoch - 1) * self.schedule.steps_per_epoch
        monitored = [row[f"{EVALUATED_SPLIT[training.selection]}_loss"] for row in self.history]
        exact = torch.float32 if self.runtime.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        # Sum of losses, correct predictions, images seen: added up on the device and read when they have arrived.
        sums = torch.tensor([begun.loss_sum, begun.correct_sum, begun.seen], device=self.runtime.device, dtype=exact)
        reading, guard = Reading(), self.learner.guard
        guard.begin(begun.step)
        started = time.perf_counter() - begun.elapsed_s
        batches = self.batches.epoch(epoch)

        def lr_of(step: int) -> float:
            return self.schedule.lr(first_step + step, monitored)

        def position(step: int) -> Position:
            guard.check()  # what a bad step left behind is not saved
            loss_sum, correct_sum, seen = sums.tolist()
            return Position(step, loss_sum, int(correct_sum), int(seen), time.perf_counter() - started)

        step = begun.step

        def no_memory() -> str:
            return self._no_memory_for_a_step(epoch, step, batches.size(step))

        try:
            for step in range(begun.step, batches.steps):
                self._heed(request, step, position)
                size = batches.size(step)
                with memory.named(no_memory):
                    images, labels = self._batch(batches, step)
                    set_rates(self.learner.optimizer, lr_of(step), self.schedule.momentum(first_step + step))
                    perturbed = has_begun(self.recipe.perturbation, first_step + step, self.schedule.total_steps)
                    loss, correct = train_step(self.learner, images, labels, perturbed, size)
                sums += torch.stack([loss * size, correct, torch.full_like(loss, size)])
                if step % STEPS_PER_REPORT == STEPS_PER_REPORT - 1:
                    arrived = reading.of(torch.cat([sums, guard.found[None].to(exact)]))
                    if arrived is not None:
                        loss_sum, correct_sum, seen, found = arrived
                        if found and not self.processes.several:  # several learn it together, after the epoch
                            break
                        elapsed_s = time.perf_counter() - started
                        done = math.ceil(seen / training.batch_size)  # a GPU reports what has arrived
                        display.step(epoch, done, loss_sum / seen, correct_sum / seen, seen / elapsed_s)
            guard.check()
        except NonFiniteLossError as error:
            bad_step = step if error.step is None else error.step
            raise self._stopped_by(error, epoch, bad_step, lr_of(bad_step)) from None
        loss_sum, correct_sum, seen = sums.tolist()
        train_s = time.perf_counter() - started
        row: dict[str, Any] = {
            "epoch": epoch,
            "steps": first_step + batches.steps,
            "lr": lr_of(batches.steps - 1),
            "train_loss": loss_sum / seen,
            "train_accuracy": correct_sum / seen,
        }
        for split, held in self.held.items():
            heed = partial(self._heed, request, batches.steps, position)
            with memory.named(partial(self._no_memory_to_evaluate, epoch)):
                measured = self._evaluate(held, heed) if held is not None else None
            row[f"{split}_loss"], row[f"{split}_accuracy"] = measured or (None, None)
        row["images_per_s"] = seen / train_s
        earlier_s = self.history[-1]["elapsed_s"] if self.history else 0.0
        row["elapsed_s"] = earlier_s + self.preparing_s + time.perf_counter() - started
        self.preparing_s = 0.0
        return self.processes.from_main(lambda: row)  # so that all decide alike what follows from it

    def _batch(self, epoch: EpochOfBatches, step: int) -> tuple[Tensor, Tensor | Targets]:
        """The batch of a step, recorded where it is worth it; as `Batches.batch`."""
        graphs = self.learner.graphs
        if graphs is None or epoch.size(step) != graphs.batch_images:
            return self.batches.batch(epoch, step)
        raw, side_px = self.batches.raw(epoch, step), self.batches.side_px(epoch.number)
        given = [name for name, tensor in zip(Raw._fields, raw, strict=True) if tensor is not None]

        def make(*tensors: Tensor) -> list[Tensor]:
            images, labels = self.batches.make(side_px, Raw(**dict(zip(given, tensors, strict=True))))
            return [images, labels.labels, labels.weights] if isinstance(labels, Targets) else [images, labels]

        images, *labels = graphs.run(("batch", side_px, *given), make, *(getattr(raw, name) for name in given))
        return images, Targets(*labels) if len(labels) == 2 else labels[0]

    def _begin(self, epoch: int) -> Position:
        """Seed the generators for `epoch`, or put back those of a state within it; returns from where it goes on."""
        runtimes.seed_everything(self.recipe.training.seed, epoch, self.processes.rank)
        begun, self.state.position = self.state.position or Position(), None
        if self.processes.rank < len(begun.generators):
            restore_generators(begun.generators[self.processes.rank], self.runtime.device)
        return begun

    def _heed(self, request: StopRequest, step: int, position: Callable[[int], Position]) -> None:
        """Before `step` (or in the evaluation after the last): stop where a signal has come, save where it is time to.

        All processes call it. `position` is computed only then, because it waits for the device.
        """
        due = self.processes.main and time.monotonic() - self.saved_at > 60 * self.recipe.runtime.checkpoint_minutes
        wanted = self.processes.highest(request.signal_number or (SAVE_DUE if due else 0))
        if not wanted:
            return
        if step and self.saved != (len(self.history), step):
            # What evaluation draws is nothing, so the generators are still where the last step left them.
            generators = self.processes.each(generator_states(self.runtime.device))
            self._save(replace(position(step), generators=tuple(generators)))
        if wanted != SAVE_DUE:
            raise self._interrupted(wanted)

    def _evaluate(self, held: LabelledImages, heed: Callable[[], None]) -> tuple[float, float]:
        """(mean cross-entropy in nats, accuracy as a fraction) of the evaluated network; each process does its part.

        Alone, `heed` is called before each batch; the parts of several processes may have different numbers of batches.
        """
        self.processes.share_buffers(self.evaluated_network)
        logits = predict_logits(
            self.evaluated_network,
            held.images[self.processes.shard(len(held))],
            self.data.mean,
            self.data.std,
            device=self.runtime.device,
            dtype=self.runtime.autocast_dtype,
            channels_last=self.runtime.channels_last,
            batch_size=self._evaluated_at_once,
            before_batch=None if self.processes.several else heed,
        )
        logits = self.processes.all_rows(logits, len(held))
        return float(F.cross_entropy(logits, held.labels)), float((logits.argmax(1) == held.labels).double().mean())

    @property
    def _evaluated_at_once(self) -> int:
        batch_size = self.recipe.training.evaluation_batch_size
        return max(batch_size, EVALUATED_AT_ONCE) if self.runtime.device.type == "cuda" else batch_size

    def _select(self, row: dict[str, Any]) -> bool:
        """Whether this epoch is the one to keep so far; one whose loss is not finite never is.

        Raises NonFiniteLossError where there is no other yet.
        """
        rule = self.recipe.training.selection
        found = Selection.of(row, rule)
        if not found.is_finite:
            self.folder.log("non-finite loss", epoch=found.epoch, split=EVALUATED_SPLIT[rule])
            if self.state.selection.epoch == 0:
                raise NonFiniteLossError(
                    f"the {EVALUATED_SPLIT[rule]} loss is {found.loss} after epoch {found.epoch}, so it cannot be "
                    f"kept, and there is no other; start a new run with a lower optimizer.lr, some "
                    f"schedule.warmup_epochs or optimizer.clip_norm=1.0"
                )
            return False
        if not found.beats(self.state.selection, rule):
            return False
        self.state.selection = found
        return True

    @property
    def status(self) -> str:
        """`running`, `completed` or `stopped early`."""
        return outcome.status(self.history, self.recipe.training)

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row for each completed epoch."""
        return self.state.history

    def _keep_weights(self) -> None:
        """In memory too, so that every state holds the weights of the kept epoch."""
        values = self.evaluated_network.state_dict()
        self.state.selected_weights = {name: value.detach().cpu().clone() for name, value in values.items()}

    def _save(self, position: Position | None = None) -> None:
        """The state after an epoch with what follows from it, or at `position` in the next. All processes call it."""
        epochs, step = len(self.history), position.step if position is not None else 0
        with self.processes.together(), self.folder.as_one():
            self.folder.write_resume_state(
                self._identity() | learned(self.network, self.learner) | reached(self.state, position),
                updates=epochs * self.schedule.steps_per_epoch + step,
            )
            if position is None:
                self._write_outcome()
        self.saved = (epochs, step)
        self.saved_at = time.monotonic()

    def _write_outcome(self) -> None:
        """What follows from the state; the last weights from that of an epoch's end alone."""
        history, selection, weights = self.history, self.state.selection, self.state.selected_weights
        assert weights is not None  # an epoch was completed, and one of them is kept
        self.folder.write_weights("selected", weights, selection.epoch)
        if self.state.position is None:
            self.folder.write_weights("last", self.evaluated_network, len(history))
        self.folder.write_history(history)
        result = outcome.result(self.recipe, self.data, self.parameters, history, selection)
        self.folder.write_json("result.json", result)

    def _interrupted(self, signal_number: int) -> Interrupted:
        epoch, step = self.saved
        self.folder.log("interrupted", signal=signal_number, epoch=epoch, step=step)
        return Interrupted(f"interrupted; {self.what_is_saved()}", signal_number)

    def what_is_saved(self) -> str:
        """For a message, with the command that goes on."""
        if self.processes.main and not self.folder.has("recipe.toml"):
            return "nothing was trained; the same command begins again"
        return f"{self._saved()}; go on with: {self.folder.resume_command}"

    def _saved(self) -> str:
        epochs, step = self.saved
        if step:
            return (
                f"epoch {epochs + 1} of {self.recipe.training.epochs} is saved up to step {step} of "
                f"{self.schedule.steps_per_epoch}"
            )
        if epochs == 0:
            return "no epoch was completed yet"
        return f"epoch {epochs} of {self.recipe.training.epochs} is saved"

    def _stopped_by(self, error: NonFiniteLossError, epoch: int, step: int, lr: float) -> NonFiniteLossError:
        self.folder.log("non-finite loss", epoch=epoch, step=step, lr=lr)
        return NonFiniteLossError(
            f"{error} in epoch {epoch}, step {step + 1} of {self.schedule.steps_per_epoch} (lr {lr:.3g}); "
            f"the update was not made and {self._saved()}; start a new run with a lower optimizer.lr, "
            f"some schedule.warmup_epochs or optimizer.clip_norm=1.0"
        )

    def _no_memory_for_a_step(self, epoch: int, step: int, size: int) -> str:
        side = self.batches.side_px(epoch) or self.data.train.images.shape[2]
        share = self.processes.shard(size)
        part = f", {share.stop - share.start} of them in each process" if self.processes.several else ""
        with suppress(MemoryError):
            self.folder.log("out of memory", epoch=epoch, step=step, batch_images=size, side_px=side)
        return (
            f"for a batch of {size} images of {side} x {side} px{part} in {self.runtime.precision}, in epoch {epoch}, "
            f"step {step + 1} of {self.schedule.steps_per_epoch}; no smaller batch was tried; this run needs more "
            f"memory, a new one less with a smaller training.batch_size (another training, with another recipe hash)"
            f"{self._or_bf16()}"
        )

    def _no_memory_to_evaluate(self, epoch: int) -> str:
        side = self.data.train.images.shape[2]
        with suppress(MemoryError):
            self.folder.log("out of memory", epoch=epoch, evaluated_at_once=self._evaluated_at_once, side_px=side)
        return (
            f"to evaluate {self._evaluated_at_once} images of {side} x {side} px at once in {self.runtime.precision}, "
            f"after epoch {epoch}; this run needs more memory, a new one less with a smaller "
            f"training.evaluation_batch_size (the same training under another recipe hash){self._or_bf16()}"
        )

    def _or_bf16(self) -> str:
        return "" if self.runtime.autocast_dtype is not None else " or runtime.precision = bf16"
