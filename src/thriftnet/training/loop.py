"""The training loop: epochs of `train_step`, evaluation, selection, and a state on disk after every epoch.

Everything random is a function of (seed, epoch, step, image), and everything else that the next epoch depends on is in
the resume state, so a resumed run continues as the uninterrupted one would have.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.augment.draws import Draws
from thriftnet.augment.mixing import PARTNERS, Targets, mix_batch, mix_rows, mixes_in, partners
from thriftnet.augment.policy import Policy, build_policy
from thriftnet.augment.resizing import check_stages, resize, training_side
from thriftnet.config import RecipeConfig
from thriftnet.data.batches import epoch_batches, steps_per_epoch
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.normalize import as_float, normalize
from thriftnet.data.prepare import TrainingData, prepare
from thriftnet.distributed.processes import ALONE, Processes
from thriftnet.errors import (
    Interrupted,
    NonFiniteLossError,
    ProcessLostError,
    RecipeError,
    RunFolderError,
    StorageError,
)
from thriftnet.evaluation.predict import predict_logits
from thriftnet.models.budget import trainable_parameters
from thriftnet.models.build import build_model, check_recipe_network
from thriftnet.models.stem import start_epoch, whiten
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import build_optimizer, set_rates
from thriftnet.optim.lookahead import Lookahead
from thriftnet.optim.perturbation import has_begun
from thriftnet.optim.schedules import Schedule
from thriftnet.training.interruption import StopRequest, watch_signals
from thriftnet.training.progress import STEPS_PER_REPORT, Display, SilentDisplay
from thriftnet.training.run_folder import RunFolder, UnwrittenRunFolder
from thriftnet.training.step import Learner, train_step

EVALUATED_SPLIT = {"validation": "validation", "test": "test", "last": "validation"}


def fit(
    recipe: RecipeConfig,
    source: Source,
    folder: RunFolder,
    display: Display,
    resume: bool = False,
    processes: Processes = ALONE,
) -> TrainingData:
    """Train `recipe` on `source` into `folder`; with `resume`, go on from the last completed epoch stored there.

    Several `processes` all call it and train as one would; only the main one writes to `folder` and shows anything.

    Returns what was trained on.

    Raises BudgetError or RecipeError before any data is read, DataError for unusable data, RunFolderError for a resume
    that does not fit, NonFiniteLossError before the update that would have spread it, Interrupted after a signal,
    ProcessLostError where another process ended.
    """
    if not processes.main:
        folder, display = UnwrittenRunFolder(folder.path), SilentDisplay()
    with processes.together():
        check_recipe_network(recipe)
        _check_shards(recipe, processes)
        runtime = runtimes.resolve(recipe.runtime, processes.local_rank, processes.local_world_size)
    with processes.together():
        if not resume:
            folder.create()
    try:
        with processes.together():
            data = prepare(source, recipe.data, recipe.training.selection, recipe.training.split_seed)
            run = _Run(recipe, runtime, data, source, folder, processes)
        run.connect()
        state = processes.from_main(lambda: folder.read_resume_state() if resume and folder.has_epoch else None)
    except BaseException:
        if not resume:
            folder.discard()
        raise
    try:
        with processes.together():
            if state is not None:
                run.restore(source, state)
                folder.log("resumed", epoch=len(run.history), environment=run.environment())
            else:
                run.describe(source)
                folder.log("started", recipe=recipe.name, seed=recipe.training.seed)
            for reason in runtime.reasons:
                folder.log("automatic choice", reason=reason)
        display.start(
            [
                f"{recipe.name}: {run.parameters:,} trainable parameters",
                *([f"{processes.world_size} processes share each batch"] if processes.several else []),
                *source.notes,
                *runtime.reasons,
            ],
            recipe.training.epochs,
            run.schedule.steps_per_epoch,
            len(run.history),
        )
        with watch_signals() as request, processes.connected():
            run.train(display, request)
    except (StorageError, ProcessLostError) as error:
        raise type(error)(f"{error}; {run.what_is_saved()}") from None
    finally:
        display.stop()
    return data


def _check_shards(recipe: RecipeConfig, processes: Processes) -> None:
    """Raise RecipeError where a whole batch would leave a process without an image."""
    batch_size, count = recipe.training.batch_size, processes.world_size
    if batch_size < count:
        raise RecipeError(
            f"training.batch_size = {batch_size} is shared by {count} processes, an image each at least; start at most "
            f"{batch_size}, or raise training.batch_size"
        )


@dataclass(frozen=True)
class _Selection:
    """The kept epoch: its number from 1, and the accuracy (a fraction) and loss that chose it; 0 before the first."""

    epoch: int = 0
    accuracy: float | None = None
    loss: float | None = None


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
        self.recipe, self.runtime, self.data, self.folder, self.processes = recipe, runtime, data, folder, processes
        training = recipe.training
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
        self.forward: nn.Module = torch.compile(self.network) if recipe.runtime.compile else self.network  # type: ignore[assignment]
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
        )
        self.policy: Policy = build_policy(recipe.augment, data.mean)
        self.train_images = data.train.images.to(runtime.device)
        self.train_labels = data.train.labels.to(runtime.device)
        # Draws are keyed by the place in the whole training split, so that another subset changes no image.
        self.image_keys = data.train_indices.to(runtime.device)
        # The only place where training opens the test split: a recipe that selects on it, to reproduce a paper.
        self.test = source.test() if training.selection == "test" else None
        self.shown = len(data.train) * (2 if recipe.augment.concatenate_originals else 1)
        self.schedule = Schedule(
            config=recipe.schedule,
            base_lr=recipe.optimizer.lr,
            epochs=training.epochs,
            steps_per_epoch=steps_per_epoch(self.shown, training.batch_size, training.drop_last),
        )
        self.history: list[dict[str, Any]] = []
        self.selection = _Selection()
        self.saved_epochs = 0

    @property
    def evaluated_network(self) -> nn.Module:
        """The average where the recipe keeps one, else Lookahead's slow weights, else the network itself."""
        for keeper in (self.learner.average, self.learner.lookahead):
            if keeper is not None:
                return keeper.network
        return self.network

    def connect(self) -> None:
        """Agree with the other processes on what is trained, and from here on average gradients with them.

        Raises UserError where they were started differently, RecipeError for a last batch too small to share.
        """
        training, count = self.recipe.training, self.processes.world_size
        fewest = min(self.shown % training.batch_size or training.batch_size, self.shown)
        if fewest < count and not training.drop_last and not self.recipe.runtime.sync_batchnorm:
            raise RecipeError(
                f"runtime.sync_batchnorm = false needs an image in each of {count} processes, and the last batch has "
                f"{fewest}; set training.drop_last = true or runtime.sync_batchnorm = true"
            )
        self.processes.require_same(
            {
                "recipe": recipes.content_hash(self.recipe),
                "data fingerprint": self.data.fingerprint,
                "kind of device": self.runtime.device.type,
                "precision": self.runtime.precision,
            }
        )
        self._average_gradients()

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
        self.folder.write_recipe(self.recipe)
        self.folder.write_json("environment.json", self.environment())
        self.folder.write_json("data.json", describe_data(source, self.data))

    def train(self, display: Display, request: StopRequest) -> None:
        """Epochs until the recipe's last, an early stop or a signal."""
        status = self._status()
        while status == "running":
            epoch = len(self.history) + 1
            row = self._train_epoch(epoch, display, request)
            self.history.append(row)
            selected = self._select(row)
            status = self._status()
            with self.processes.together():
                self._save(selected, status)
            display.epoch(row, selected)
        self.folder.log("finished", status=status, epoch=len(self.history))

    def restore(self, source: Source, state: dict[str, Any]) -> None:
        """Take up the `state` of the last completed epoch, and write again what follows from it.

        Raises RunFolderError where recipe or data differ, or a file that only training can make is missing or damaged.
        """
        expected = {"recipe": recipes.content_hash(self.recipe), "data": self.data.fingerprint}
        for what, fingerprint in expected.items():
            if state.get(what) != fingerprint:
                raise RunFolderError(
                    f"{self.folder.path} was trained with another {what} ({state.get(what)}, now {fingerprint}); "
                    f"resume with the same {what}, or start a new run"
                )
        try:
            self.network.load_state_dict(state["network"])
            self.learner.optimizer.load_state_dict(state["optimizer"])
            self.learner.scaler.load_state_dict(state["scaler"])
            if self.learner.average is not None:
                self.learner.average.network.load_state_dict(state["average"])
                self.learner.average.updates = state["average_updates"]
            if self.learner.lookahead is not None:
                self.learner.lookahead.network.load_state_dict(state["lookahead"])
                self.learner.lookahead.updates = state["lookahead_updates"]
            self.history = state["history"]
            self.selection = _Selection(**state["selection"])
            self.saved_epochs = len(self.history)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise RunFolderError(
                f"{self.folder.path / 'resume.pt'} does not fit this recipe ({error}); restore it or train again"
            ) from None
        if self.processes.main:  # another machine may not see the folder
            self.folder.read_weights("selected")
        # A kill between two files of an epoch leaves them apart, and the data may have moved.
        self.folder.write_json("data.json", describe_data(source, self.data))
        self._write_outcome(self._status())

    def _train_epoch(self, epoch: int, display: Display, request: StopRequest) -> dict[str, Any]:
        training = self.recipe.training
        runtimes.seed_everything(training.seed, epoch, self.processes.rank)
        self.learner.network.train()
        if start_epoch(self.network, epoch):
            self._average_gradients()
        first_step = (epoch - 1) * self.schedule.steps_per_epoch
        monitored = [row[f"{EVALUATED_SPLIT[training.selection]}_loss"] for row in self.history]
        exact = torch.float32 if self.runtime.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        loss_sum = torch.zeros((), device=self.runtime.device, dtype=exact)
        correct_sum = torch.zeros((), device=self.runtime.device, dtype=torch.int64)
        seen = 0
        started = time.perf_counter()
        lr = self.schedule.base_lr
        batches = epoch_batches(self.shown, training.batch_size, training.drop_last, training.seed, epoch)
        for step, entries in enumerate(batches):
            signal_number = self.processes.highest(request.signal_number or 0)
            if signal_number:
                raise self._interrupted(signal_number)
            images, labels = self._batch(entries, epoch, step)
            lr = self.schedule.lr(first_step + step, monitored)
            set_rates(self.learner.optimizer, lr, self.schedule.momentum(first_step + step))
            perturbed = has_begun(self.recipe.perturbation, first_step + step, self.schedule.total_steps)
            try:
                loss, correct = train_step(self.learner, images, labels, perturbed, len(entries))
            except NonFiniteLossError as error:
                raise self._stopped_by(error, epoch, step, lr) from None
            loss_sum += loss * len(entries)
            correct_sum += correct
            seen += len(entries)
            if step % STEPS_PER_REPORT == STEPS_PER_REPORT - 1:
                # Reading these waits for the device, so not at every step.
                elapsed_s = time.perf_counter() - started
                display.step(epoch, float(loss_sum) / seen, int(correct_sum) / seen, seen / elapsed_s)
        train_s = time.perf_counter() - started
        row: dict[str, Any] = {
            "epoch": epoch,
            "steps": first_step + step + 1,
            "lr": lr,
            "train_loss": float(loss_sum) / seen,
            "train_accuracy": int(correct_sum) / seen,
        }
        for split, held in (("validation", self.data.validation), ("test", self.test)):
            row[f"{split}_loss"], row[f"{split}_accuracy"] = self._evaluate(held) if held is not None else (None, None)
        for split in ("validation", "test"):
            if row[f"{split}_loss"] is not None and not math.isfinite(row[f"{split}_loss"]):
                raise NonFiniteLossError(
                    f"the {split} loss is {row[f'{split}_loss']} after epoch {epoch}; {self._saved()}; start a new run "
                    "with a lower optimizer.lr, some schedule.warmup_epochs or optimizer.clip_norm=1.0"
                )
        row["images_per_s"] = seen / train_s
        earlier_s = self.history[-1]["elapsed_s"] if self.history else 0.0
        row["elapsed_s"] = earlier_s + time.perf_counter() - started
        return self.processes.from_main(lambda: row)  # so that all decide alike what follows from it

    def _batch(self, entries: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor | Targets]:
        """Normalised images float32 [N, C, H, W] and labels int64 [N], of mixed images `Targets`, for a step's entries.

        With several processes N is this one's share of them. Where originals and augmented copies are concatenated,
        entries from len(train) on are the augmented copies.
        """
        training, share = self.recipe.training, self.processes.shard(len(entries))
        partner_rows = None
        mix = self.recipe.augment.mix
        if mix is not None and mixes_in(mix, epoch, training.epochs) and self.processes.several:
            # A mixed image needs its partners, wherever in the batch they are: they are made here too.
            everyone = partners(training.seed, epoch, step, len(entries), PARTNERS[mix.name], entries.device)
            mine = everyone[:, share]
            entries, count = torch.cat([entries[share], entries[mine.flatten()]]), mine.shape[1]
            partner_rows = count + torch.arange(mine.numel(), device=self.runtime.device).view_as(mine)
        else:
            entries = entries[share]
            count = len(entries)
        images_in_all = len(self.data.train)
        indices = (entries % images_in_all).to(self.runtime.device)
        raw, labels = self.train_images[indices], self.train_labels[indices]
        draws = Draws(training.seed, epoch, self.image_keys[indices])
        if not self.recipe.augment.concatenate_originals:
            images = self.policy(raw, draws)
        else:
            images = as_float(raw)
            copies = (entries >= images_in_all).nonzero().squeeze(1).to(self.runtime.device)
            copied = Draws(training.seed, epoch, self.image_keys[indices[copies]])
            images[copies] = self.policy(raw[copies], copied)
        own_draws = draws if partner_rows is None else Draws(training.seed, epoch, self.image_keys[indices[:count]])
        images, targets = resize_and_mix(self.recipe, images, labels, own_draws, step, partner_rows)
        images = normalize(images, self.data.mean, self.data.std)
        return images.contiguous(memory_format=self.runtime.memory_format), targets

    def _evaluate(self, held: LabelledImages) -> tuple[float, float]:
        """(mean cross-entropy in nats, accuracy as a fraction) of the evaluated network; each process does its part."""
        self.processes.share_buffers(self.evaluated_network)
        logits = predict_logits(
            self.evaluated_network,
            held.images[self.processes.shard(len(held))],
            self.data.mean,
            self.data.std,
            device=self.runtime.device,
            dtype=self.runtime.autocast_dtype,
            channels_last=self.runtime.channels_last,
            batch_size=self.recipe.training.evaluation_batch_size,
        )
        logits = self.processes.all_rows(logits, len(held))
        return float(F.cross_entropy(logits, held.labels)), float((logits.argmax(1) == held.labels).double().mean())

    def _select(self, row: dict[str, Any]) -> bool:
        """Whether this epoch is the one to keep so far: higher accuracy, of equal ones lower loss, else the first.

        The loss matters on small validation sets, where many epochs classify every image right.
        """
        rule = self.recipe.training.selection
        found = _Selection(row["epoch"], row[f"{EVALUATED_SPLIT[rule]}_accuracy"], row[f"{EVALUATED_SPLIT[rule]}_loss"])
        kept = self.selection
        if rule != "last" and kept.accuracy is not None and kept.loss is not None:
            assert found.accuracy is not None  # this rule always evaluates
            assert found.loss is not None
            if (found.accuracy, -found.loss) <= (kept.accuracy, -kept.loss):
                return False
        self.selection = found
        return True

    def _status(self) -> str:
        """`running`, `completed` or `stopped early`, from the history alone."""
        training = self.recipe.training
        if len(self.history) >= training.epochs:
            return "completed"
        patience = training.early_stopping_epochs
        if patience is not None and self.history:
            accuracies = [row[f"{EVALUATED_SPLIT[training.selection]}_accuracy"] for row in self.history]
            if len(accuracies) - 1 - accuracies.index(max(accuracies)) >= patience:
                return "stopped early"
        return "running"

    def _save(self, selected: bool, status: str) -> None:
        epoch = len(self.history)
        if selected:
            self.folder.write_weights("selected", self.evaluated_network, epoch)
        average, lookahead = self.learner.average, self.learner.lookahead
        self.folder.write_resume_state(
            {
                "recipe": recipes.content_hash(self.recipe),
                "data": self.data.fingerprint,
                "network": self.network.state_dict(),
                "optimizer": self.learner.optimizer.state_dict(),
                "scaler": self.learner.scaler.state_dict(),
                "average": average.network.state_dict() if average is not None else None,
                "average_updates": average.updates if average is not None else 0,
                "lookahead": lookahead.network.state_dict() if lookahead is not None else None,
                "lookahead_updates": lookahead.updates if lookahead is not None else 0,
                "history": self.history,
                "selection": asdict(self.selection),
            }
        )
        self.saved_epochs = epoch
        self._write_outcome(status)

    def _write_outcome(self, status: str) -> None:
        """What can be made again from the resume state."""
        self.folder.write_weights("last", self.evaluated_network, len(self.history))
        self.folder.write_history(self.history)
        self.folder.write_json("result.json", self._result(status))

    def _result(self, status: str) -> dict[str, Any]:
        training = self.recipe.training
        kept = self.history[self.selection.epoch - 1]
        return {
            "status": status,
            "recipe": self.recipe.name,
            "recipe_hash": recipes.content_hash(self.recipe),
            "parameters": self.parameters,
            "seed": training.seed,
            "epochs": len(self.history),
            "epochs_planned": training.epochs,
            "selection": "test-selected" if training.selection == "test" else training.selection,
            "selected_epoch": self.selection.epoch,
            "selected": kept,
            "last": self.history[-1],
            "training_images": len(self.data.train),
            "validation_images": len(self.data.validation) if self.data.validation is not None else 0,
            "elapsed_s": self.history[-1]["elapsed_s"],
        }

    def _interrupted(self, signal_number: int) -> Interrupted:
        self.folder.log("interrupted", signal=signal_number, epoch=self.saved_epochs)
        return Interrupted(f"interrupted; {self.what_is_saved()}", signal_number)

    def what_is_saved(self) -> str:
        """For a message, with the command that goes on."""
        return f"{self._saved()}; go on with: {self.folder.resume_command}"

    def _saved(self) -> str:
        if self.saved_epochs == 0:
            return "no epoch was completed yet"
        return f"epoch {self.saved_epochs} of {self.recipe.training.epochs} is saved"

    def _stopped_by(self, error: NonFiniteLossError, epoch: int, step: int, lr: float) -> NonFiniteLossError:
        self.folder.log("non-finite loss", epoch=epoch, step=step, lr=lr)
        return NonFiniteLossError(
            f"{error} in epoch {epoch}, step {step + 1} of {self.schedule.steps_per_epoch} (lr {lr:.3g}); "
            f"the update was not made and {self._saved()}; start a new run with a lower optimizer.lr, "
            f"some schedule.warmup_epochs or optimizer.clip_norm=1.0"
        )


def resize_and_mix(
    recipe: RecipeConfig, images: Tensor, labels: Tensor, draws: Draws, step: int, partner_rows: Tensor | None = None
) -> tuple[Tensor, Tensor | Targets]:
    """What happens to the augmented images of a whole batch, float32 [N, C, H, W] in [0, 1], in the epoch of `draws`.

    `labels`: int64 [N]; `step` counts from the epoch's first. Of a part of a batch, `partner_rows` (int64 [P - 1, n])
    says where among the images the partners of its first n are, which have the draws and are returned.
    """
    mix, epochs = recipe.augment.mix, recipe.training.epochs
    images = resize(images, training_side(recipe.training.progressive, draws.epoch, epochs))
    if mix is None or not mixes_in(mix, draws.epoch, epochs):
        return images[: len(draws)], labels[: len(draws)]
    if partner_rows is None:
        return mix_batch(mix, images, labels, draws, step)
    return mix_rows(mix, images, labels, partner_rows, draws)


def describe_data(source: Source, data: TrainingData) -> dict[str, Any]:
    """data.json: what prediction and a report need to know of the data, without the data."""
    counts = torch.bincount(data.train.labels, minlength=len(data.class_names)).tolist()
    return {
        "location": source.location,
        "format": source.format,
        "fingerprint": data.fingerprint,
        "class_names": list(data.class_names),
        "channels": data.train.images.shape[1],
        "image_side": data.train.images.shape[2],
        "mean": list(data.mean),
        "std": list(data.std),
        "training_images": len(data.train),
        "training_images_per_class": counts,
        "validation_images": len(data.validation) if data.validation is not None else 0,
    }
