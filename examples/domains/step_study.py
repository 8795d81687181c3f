"""Study: functions of a donor, fixed, beside five activations that are tuned alike.

    python examples/domains/step_study.py --minutes 60 --pause /tmp/quiet   # runs that are missing
    python examples/domains/step_study.py --table       # no runs: what is done, and the contrasts
    python examples/domains/step_study.py --repeat 61   # one seed of the primary contrast once more
    python examples/domains/step_study.py --declared    # the commit of the declaration

step.yaml declares the study, and step-budget.yaml how its budget is counted; changed ones are
refused. Needs apt-get install python3-doc
anarchism dataset-fashion-mnist. Rows are in results/step.csv; a donor's row has its functions. The
runs are made one after another on one thread; a second process beside the first takes other runs. A
run that is stopped resumes from its checkpoint in runs/step, and one whose row is there is not made
again, so the study goes on from committed rows on another machine.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch
from extra import needed
from torch import Tensor, nn

import kat
from kat.documents import write_json
from kat.tables import write_table
from kat.training.record.provenance import PROVENANCE, provenance

with needed():
    import images
    import language
    import layers
    import plan
    import transformers
    import yaml
    from declared import refuse_changes
    from functions import average_of, functions_of, load
    from runner import Trial
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

DECLARATION = Path(__file__).with_name("step.yaml")
DECLARED: dict[str, Any] = yaml.safe_load(DECLARATION.read_text(encoding="utf-8"))
BUDGET = Path(__file__).with_name("step-budget.yaml")
SECONDS: dict[str, Any] = yaml.safe_load(BUDGET.read_text(encoding="utf-8"))
ROWS, BEST = plan.RESULTS / "step.csv", plan.RESULTS / "step-best.json"
RUNS = Path(__file__).parents[2] / "runs" / "step"
IMAGE_BLOCKS = 6
WEIGHT_DECAY = 0.1
PATIENCE = 5
"""Seconds between two looks at whether a run may start."""


class Run(NamedTuple):
    """One run, and the columns of the CSV file that identify it."""

    stage: str
    task: str
    arm: str
    seed: int
    optimizer: str
    steps: int
    rate: float
    multiplier: float
    """Of the rate of fc2's weight."""


MEASURED = ("parameters", "valid", "test", "cpu_seconds", "seconds", "curve", "windows")
COLUMNS = (*Run._fields, *MEASURED, "functions", *PROVENANCE, "transformers")
Rows = Mapping[Run, Mapping[str, str]]
Trained = tuple[Any, dict[str, Any], Callable[[], list[dict[str, Any]]]]


def main() -> None:
    """Makes the runs that are missing, or prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--declared", action="store_true", help="print the commit of the declaration, no more")
    add("--table", action="store_true", help="make no runs: print the tables")
    add("--repeat", type=int, metavar="SEED", help="of the primary contrast; no row is written")
    add("--minutes", type=float, default=math.inf, help="start no run after so many")
    add("--pause", type=Path, default=Path(), help="start no run while this file exists")
    add("--docs", type=Path, default=Path("/usr/share/doc"), help="where Debian's texts are")
    add("--data", default="fashion_mnist", help="the images, or fashion_mnist:FOLDER")
    options = parser.parse_args()
    print(f"declared in {refuse_changes(DECLARATION)}, {refuse_changes(BUDGET)}", flush=True)
    if options.declared:
        return
    torch.set_num_threads(1)
    if options.repeat is not None:
        repeat(options.repeat, read_rows(), options)
        return
    if not options.table:
        make_missing(options)
    print_tables(read_rows())


# ---- which run is next


def make_missing(options: argparse.Namespace) -> None:
    """Makes the runs that are missing, until none is, or time or budget is spent."""
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        rows = read_rows()
        if hours(rows) >= DECLARED["budget_hours"]:
            print(f"the budget of {DECLARED['budget_hours']} hours is spent")
            return
        runs = missing(rows)
        if not runs:
            return
        if "tuning" not in runs[-1].stage:
            refuse_unnamed(rows)
        if options.pause.is_file() or not make_first(runs, rows, options):
            time.sleep(PATIENCE)


def make_first(runs: Iterable[Run], rows: Rows, options: argparse.Namespace) -> bool:
    """Makes the first run that can start: its donor is there, and no other process makes it."""
    for run in runs:
        donor = donor_of(run)
        if donor is not None and donor not in rows:
            continue
        with locked(name_of(run)) as free:
            if not free:
                continue
            if run not in read_rows():  # another process may have ended it since
                append(row_of(run, rows, options))
            checkpoint(run).unlink(missing_ok=True)
            return True
    return False


def missing(rows: Rows) -> list[Run]:
    """The runs of the first stage that lacks some, in their order; those that are known so far."""
    for stage in DECLARED["stages"]:
        found = [run for run in runs_of(stage, rows) if run not in rows]
        if found:
            return found
    return []


def whole_stages(rows: Rows) -> list[str]:
    """The names of the stages before the first one that lacks runs."""
    names: list[str] = []
    for stage in DECLARED["stages"]:
        if any(run not in rows for run in runs_of(stage, rows)):
            break
        names.append(stage["stage"])
    return names


def runs_of(stage: Mapping[str, Any], rows: Rows) -> list[Run]:
    """The runs of a stage whose settings the rows give, each after its donor."""
    make = tuning_runs if "rates" in stage else test_runs
    runs: dict[Run, None] = {}
    for run in make(stage, rows):
        donor = donor_of(run)
        if donor is not None:
            runs[donor] = None
        runs[run] = None
    return list(runs)


def tuning_runs(stage: Mapping[str, Any], rows: Rows) -> Iterator[Run]:
    """For each arm the rates, one more at an edge, then the multipliers at the best rate."""
    [seed] = stage["seeds"]
    for arm in arms_of(stage, rows):
        new = partial(_run, stage, arm, seed)
        runs = [new(rate, 1.0) for rate in stage["rates"]]
        yield from runs
        if any(run not in rows for run in runs):
            continue
        rate = _best(runs, rows).rate
        edges = dict(zip((min(stage["rates"]), max(stage["rates"])), stage["beyond"], strict=True))
        if rate in edges:
            runs.append(new(edges[rate], 1.0))
            yield runs[-1]
        if runs[-1] in rows:
            rate = _best(runs, rows).rate
            yield from (new(rate, multiplier) for multiplier in stage["multipliers"])


def test_runs(stage: Mapping[str, Any], rows: Rows) -> Iterator[Run]:
    """A block for each seed, with the arms in an order that the seed draws."""
    for seed in stage["seeds"]:
        arms = arms_of(stage, rows)
        random.Random(seed).shuffle(arms)
        for arm in arms:
            tuned = "fixed" if arm in ("pair", "one") else arm
            settings = chosen(stage["settings"], tuned, rows)
            yield _run(stage, arm, seed, settings.rate, settings.multiplier)


def _run(stage: Mapping[str, Any], arm: str, seed: int, rate: float, multiplier: float) -> Run:
    name, task, optimizer = stage["stage"], stage["task"], stage["optimizer"]
    return Run(name, task, arm, seed, optimizer, stage["steps"], rate, multiplier)


def donor_of(run: Run) -> Run | None:
    """The run whose functions an arm takes; runs on text have donors trained on python3-doc."""
    kind = DECLARED["arms"][run.arm].get("donor")
    if kind is None:
        return None
    task = run.task if run.task in images.TASKS else "python3-doc"
    given, seed = DECLARED["donors"][task], run.seed + DECLARED["donor_seed"]
    return Run("donor", task, kind, seed, "adamw", given["steps"], given["rate"], 1.0)


def arms_of(stage: Mapping[str, Any], rows: Rows) -> list[str]:
    """The arms of a stage, each once, with those that earlier stages chose."""
    arms = []
    for arm in stage["arms"]:
        if arm == "others":
            arms += others(rows)
        else:
            arms.append(best_arm(rows) if arm == "best" else arm)
    return list(dict.fromkeys(arms))


def others(rows: Rows) -> list[str]:
    """The two best of the activations beside GELU, after 400 steps."""
    return sorted(("silu", "relu2", "swiglu", "xielu"), key=partial(_error, "1-tuning", rows))[:2]


def best_arm(rows: Rows) -> str:
    """B: the best arm other than GR-KAN and fixed functions, after 1,600 steps."""
    return min(("gelu", *others(rows)), key=partial(_error, "2-tuning", rows))


def _error(stage: str, rows: Rows, arm: str) -> float:
    return _valid(chosen(stage, arm, rows), rows)


def chosen(stage: str, arm: str, rows: Rows) -> Run:
    """The run of a stage that tunes, whose settings an arm keeps."""
    return _best([run for run in rows if (run.stage, run.arm) == (stage, arm)], rows)


def _best(runs: Iterable[Run], rows: Rows) -> Run:
    return min(runs, key=lambda run: _valid(run, rows))


def _valid(run: Run, rows: Rows) -> float:
    return float(rows[run]["valid"])


def refuse_unnamed(rows: Rows) -> None:
    """Writes which arm is B.

    Raises:
        SystemExit: the file is not committed, or was committed with another arm.
    """
    write_json(BEST, {"best": best_arm(rows)})
    refuse_changes(BEST)


# ---- a run


def row_of(run: Run, rows: Rows, options: argparse.Namespace) -> dict[str, Any]:
    """Makes a run; its row."""
    print(f"{name_of(run)}, {time.strftime('%H:%M')}", flush=True)
    torch.compiler.reset()  # else earlier models count against its limit
    torch.manual_seed(run.seed)
    device = torch.device("cpu")
    tunes = run.stage == "donor" or run.stage.endswith("tuning")  # no error of test is computed
    given = run.task, run.arm, run.rate, run.seed, run.steps, device, checkpoint(run), tunes
    donor = donor_of(run)
    functions = json.loads(rows[donor]["functions"]) if donor else None
    train = train_images if run.task in images.TASKS else train_language
    model, row, learned = train(run, Trial(*given), functions, options)
    row["curve"] = " ".join(f"{when}:{error:.4f}" for when, error in row["curve"])
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["transformers"] = transformers.__version__
    if run.stage == "donor":
        row["functions"] = json.dumps(learned(), separators=(",", ":"))
    return provenance(device) | run._asdict() | row


def train_language(run: Run, trial: Trial, functions: Any, options: argparse.Namespace) -> Trained:
    """The model, what was measured, and a call that returns its functions."""
    make = partial(make_llama, functions=functions)
    given = argparse.Namespace(docs=options.docs, compile=DECLARED["compile"], generate=0)
    optimizers = partial(make_optimizers, run)
    model, row = language.run(given, trial, make, new_windows, optimizers)
    text = language.read(run.task, options.docs)
    windows = new_windows(text.valid, language.VALID)
    validate = partial(language.bits_per_byte, model, windows, text.bytes_of_token)
    return model, row, partial(functions_of, model.model.layers, validate)


def make_llama(arm: str, functions: Any = None) -> Any:
    """The Llama with the MLPs of an arm; attention and embeddings are drawn the same for all."""
    model = language.make_model("gelu")
    set_mlps(model.model.layers, language.WIDTH, language.HIDDEN, arm, functions)
    return model


def train_images(run: Run, trial: Trial, functions: Any, options: argparse.Namespace) -> Trained:
    """The same, of images."""

    def make(arm: str) -> nn.Sequential:
        model = images.make_model("gelu", IMAGE_BLOCKS)
        set_mlps(model[-1].blocks, images.WIDTH, images.HIDDEN, arm, functions)
        torch.manual_seed(run.seed)  # all arms see the same batches
        return model

    given = argparse.Namespace(data=options.data)
    model, row = images.run(given, trial, make)
    _, held_out = images.split(images.TASKS[run.task], images.read(options.data, "train"), run.seed)
    validate = partial(images.error, model, held_out, trial.device)
    return model, row, partial(functions_of, model[-1].blocks, validate)


def set_mlps(blocks: Any, width: int, hidden: int, arm: str, functions: Any = None) -> None:
    """Gives each block the MLP of an arm: its functions first, then weights drawn for them."""
    settings = DECLARED["arms"][arm]
    if "groups" not in settings:
        for block in blocks:
            block.mlp = layers.mlp(arm, width, hidden)
        return
    for layer, block in enumerate(blocks):
        mlp = kat.GRKANMlp(width, hidden, num_groups=settings["groups"], first_init="none")
        if settings.get("shared") and layer:
            mlp.act2 = blocks[0].mlp.act2
        if "donor" in settings:
            own = [functions[layer]]
            if settings["mean"] == "pair" and layer:
                own = functions[1:]
            load(mlp.act2, average_of([each["act2"] for each in own]))
            mlp.init_weights()
            mlp.act2.requires_grad_(False)
        block.mlp = mlp


def make_optimizers(run: Run, model: Any) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices of the blocks, and AdamW for the rest."""
    second = set()
    for block in model.model.layers:
        *_, fc2 = block.mlp.children()
        second.add(fc2.weight)
    groups = kat.param_groups(model, run.rate, weight_decay=WEIGHT_DECAY)
    if run.optimizer == "adamw":
        return [torch.optim.AdamW(scaled(groups, second, run.multiplier))]
    matrices = set(kat.split_parameters(model).matrices)
    inner = {
        "params": [p for p in model.parameters() if p in matrices],
        "lr": run.rate,
        "weight_decay": WEIGHT_DECAY,
    }
    muon = torch.optim.Muon(scaled([inner], second, run.multiplier), adjust_lr_fn="match_rms_adamw")
    for group in groups:
        group["params"] = [p for p in group["params"] if p not in matrices]
    return [muon, torch.optim.AdamW(group for group in groups if group["params"])]


def scaled(
    groups: Iterable[dict[str, Any]], second: set[nn.Parameter], multiplier: float
) -> list[dict[str, Any]]:
    """The groups, with a rate of its own for some parameters, and the same decay in a step."""
    made = []
    for group in groups:
        rest = [p for p in group["params"] if p not in second]
        own = [p for p in group["params"] if p in second]
        rate, decay = group["lr"] * multiplier, group["weight_decay"] / multiplier
        made.append({**group, "params": rest})
        made.append({**group, "params": own, "lr": rate, "weight_decay": decay})
    return [group for group in made if group["params"]]


def new_windows(tokens: Tensor, count: int) -> Tensor:
    """Windows half a window later than the windows of language.py, without a shared token."""
    places = torch.arange(len(tokens))
    seen = torch.zeros(len(tokens), dtype=torch.bool)
    seen[language.spaced_windows(places, count).flatten()] = True
    half, size = language.CONTEXT // 2, language.CONTEXT
    candidates = places[half:].unfold(0, size + 1, size)
    return tokens[language.spaced(candidates[~seen[candidates].any(1)], count)]


def repeat(seed: int, rows: Rows, options: argparse.Namespace) -> None:
    """Makes a donor, F and B for a seed, and prints their contrast beside what is published.

    Raises:
        SystemExit: the published rows are not whole, or another process makes one of the runs.
    """
    name, arm = DECLARED["primary"]["stage"], DECLARED["primary"]["arm"]
    if name not in whole_stages(rows):
        raise SystemExit(f"there is nothing to compare with yet: {name} is not whole")
    [stage] = [stage for stage in DECLARED["stages"] if stage["stage"] == name]
    best = best_arm(rows)
    made: dict[Run, Mapping[str, Any]] = {}
    for run in runs_of({**stage, "seeds": [seed], "arms": [arm, best]}, rows):
        with locked(name_of(run)) as free:
            if not free:
                raise SystemExit(f"another process makes {name_of(run)}")
            made[run] = row_of(run, made, options)
            checkpoint(run).unlink(missing_ok=True)
    again = percents(name, arm, best, made)[seed]
    published = contrast(name, arm, best, rows)
    reach = (published.high - published.low) / 2 * math.sqrt(published.seeds + 1)
    low, high = published.mean - reach, published.mean + reach
    where = "inside" if low <= again <= high else "outside"
    print(f"seed {seed}: F minus B {again:+.2f} %, {where} the 95 % interval of one more seed")
    print(f"that is {low:+.2f} to {high:+.2f} %; published is the mean: {published}")
    if seed in stage["seeds"]:
        print(f"published for this seed: {percents(name, arm, best, rows)[seed]:+.2f} %")


# ---- the rows


def read_rows() -> dict[Run, dict[str, str]]:
    """The rows by their runs."""
    found: dict[Run, dict[str, str]] = {}
    if not ROWS.exists():
        return found
    csv.field_size_limit(1 << 20)
    kinds = get_type_hints(Run)
    with ROWS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = [kinds[name](row[name]) for name in Run._fields]
            found[Run(*values)] = row
    return found


def append(row: Mapping[str, Any]) -> None:
    """Adds a row to the CSV file, which is replaced as a whole."""
    with locked("rows", wait=True):
        write_table(ROWS, COLUMNS, [*read_rows().values(), row])


@contextmanager
def locked(name: str, wait: bool = False) -> Iterator[bool]:
    """A lock that the end of a process frees, however it ends; False if another one has it."""
    RUNS.mkdir(parents=True, exist_ok=True)
    with (RUNS / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def name_of(run: Run) -> str:
    """A name for files."""
    return "-".join(map(str, run))


def checkpoint(run: Run) -> Path:
    """Where a run that is stopped resumes."""
    return RUNS / f"{name_of(run)}.ckpt"


def hours(rows: Rows) -> float:
    """What the rows count of the budget."""
    return sum(map(seconds, rows)) / 3600


def seconds(run: Run) -> float:
    """The declared estimate of a run."""
    if run.task in images.TASKS:
        return SECONDS["images"]
    factor = SECONDS["muon"] if run.optimizer == "muon" else 1
    return SECONDS["language"][run.steps] * factor


# ---- the tables


class Contrast(NamedTuple):
    """A mean of paired differences in percent, its 95 % interval, and p of the t-test."""

    mean: float
    low: float
    high: float
    p: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} % ({self.low:+.2f} to {self.high:+.2f}, {self.seeds} seeds)"


def print_tables(rows: Rows) -> None:
    """Prints the stages that are whole, and what the first one that is not lacks."""
    print(f"{hours(rows):.2f} of {DECLARED['budget_hours']} hours")
    whole = whole_stages(rows)
    for number, stage in enumerate(DECLARED["stages"]):
        name = stage["stage"]
        print(f"\n{name}, seeds {stage['seeds']}")
        if number == len(whole):
            print("\n".join(f"  missing: {name_of(run)}" for run in missing(rows)))
            break
        for arm in arms_of(stage, rows):
            if "rates" in stage:
                run = chosen(name, arm, rows)
                settings = f"rate {run.rate}, fc2 x {run.multiplier}"
                print(f"  {arm}: {settings}, error of validation {_valid(run, rows):.4f}")
            elif arm != "gelu":
                print(f"  {arm} minus gelu: {contrast(name, arm, 'gelu', rows)}")
    if "3-test" in whole:
        print_contrasts(whole, rows)


def errors(stage: str, arm: str, rows: Rows) -> dict[int, float]:
    """The error of test by seed."""
    arm = best_arm(rows) if arm == "best" else arm
    runs = [run for run in rows if (run.stage, run.arm) == (stage, arm)]
    return {run.seed: float(rows[run]["test"]) for run in runs}


def percents(stage: str, arm: str, reference: str, rows: Rows) -> dict[int, float]:
    """100 (own / reference - 1) by seed, of the seeds that have both."""
    own, other = errors(stage, arm, rows), errors(stage, reference, rows)
    return {seed: 100 * (own[seed] / other[seed] - 1) for seed in own.keys() & other.keys()}


def contrast(stage: str, arm: str, reference: str, rows: Rows) -> Contrast:
    """The mean of 100 (own / reference - 1) over the seeds whose blocks are whole."""
    known = [run for run in rows if run.stage == stage]
    counts = Counter(run.seed for run in known)
    arms = {run.arm for run in known}
    found = percents(stage, arm, reference, rows)
    percent = [found[seed] for seed in counts if counts[seed] == len(arms)]
    test = stats.ttest_1samp(percent, 0)
    low, high = test.confidence_interval()
    return Contrast(np.mean(percent), low, high, test.pvalue, len(percent))


def print_contrasts(whole: Collection[str], rows: Rows) -> None:
    """Prints the primary contrast with its outcome, and the secondary ones if all are whole."""
    primary = contrast(**DECLARED["primary"], rows=rows)
    print(f"\nB is {best_arm(rows)}\nprimary: F minus B {primary}: {outcome(primary)}")
    secondary = DECLARED["secondary"]
    if any(one["stage"] not in whole for one in secondary):
        return
    found = [contrast(**one, rows=rows) for one in secondary]
    corrected = multipletests([each.p for each in found], method="holm")[1]
    for one, each, p in zip(secondary, found, corrected, strict=True):
        print(f"{one['stage']}: {one['arm']} minus {one['reference']} {each}, Holm's p {p:.3g}")


def outcome(found: Contrast) -> str:
    """The declared outcome that the primary contrast has."""
    least = DECLARED["smallest_effect_percent"]
    if found.high < 0 and found.mean <= -least:
        return "better"
    if -least < found.low and found.high < least:
        return "equal"
    return "worse" if found.low > 0 else "undecided"


if __name__ == "__main__":
    main()
