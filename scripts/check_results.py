"""Recomputes each figure of the pages of results from the committed rows, by code of its own.

    python scripts/check_results.py [FOLDER]

FOLDER is docs by default, with README.md beside it. check_results.txt, beside this script, has the
fragments of the pages that state a figure. Prints a line for each figure that is not the rows',
rounded alike, each fragment that a page lacks, each verdict that does not follow, and each number
that no fragment covers; the exit code is then 1. Nothing of the package or of results_page.py is
used, whose tables are left out.
"""

import csv
import itertools
import math
import re
import sys
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks/results"
PAIRS = "grkan/gelu grkan/swiglu grkan/frozen grkan/boosting frozen/gelu swiglu/gelu"
CONTRASTS = ["fixed_second", "grkan", "initial", "warm", "act2", "layer", "one"]
DECLARED = ["3-test grkan minus gelu", "3-test fixed minus grkan", "4-test fixed minus gelu"]
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FIGURE = r"(not informative|[+-]?\w(?:[\w,.]*\w)?(?:(?<=e)[+-]\d\d)?(?: ± [\d.]*\d)?)"
TABLE = re.compile(r"<!-- table of .*?<!-- end of table -->", re.DOTALL)


def read(name):
    lines = (ROWS / f"{name}.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def column(name, title, key="model"):
    """The numbers in a column of a table, by the names in another."""
    return {row[key]: float(row[title]) for row in read(name)}


def by_seed(rows, title, *keys):
    """The numbers in a column of rows, by the names in other columns, by seed."""
    found = {}
    for row in rows:
        name = " ".join(row[key] for key in keys)
        found.setdefault(name, {})[row["seed"]] = float(row[title])
    return found


def cells(name, title="test_top1"):
    """By cell, by seed: a column of the runs that have a result."""
    rows = read(name)
    done = [row for row in rows if row["status"] == "done"]
    return {row["cell"]: {} for row in rows} | by_seed(done, title, "cell")


def minus(one, other):
    return np.array([value - other[seed] for seed, value in one.items() if seed in other])


def logs(one, other):
    """The logarithms of the ratios of two columns."""
    return np.array([math.log(value / other[seed]) for seed, value in one.items() if seed in other])


def percents(one, other):
    """By how many percent a column lies above another, by seed."""
    return 100 * np.expm1(logs(one, other))


def half(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def p_value(values):
    return stats.ttest_1samp(values, 0).pvalue if values.any() else 1.0


def confidence(facts, p_values, second, robust, edge):
    """Adds p values, Holm's, and the words that results.md defines below its first table."""
    largest = 0
    for rank, key in enumerate(sorted(p_values, key=p_values.get)):
        largest = max(largest, (len(p_values) - rank) * p_values[key])
        sure = "robust" if largest < 0.05 and key not in edge else "significant"
        sure = sure if p_values[key] < 0.05 and key in second & robust else "fragile"
        unsure = "not informative" if reach(facts, key) > 1 else "inconclusive"
        facts[f"{key} word"] = sure if p_values[key] < 0.05 or key in second else unsure
        facts |= {f"{key} p": p_values[key], f"{key} Holm": largest}


def reach(facts, key):
    """The end of an interval that is further from 0, in points or in 10 %."""
    if f"{key}<" in facts:
        return max(-facts[f"{key}<"], facts[f"{key}>"]) / 10
    return abs(facts[key].mean()) + half(facts[key])


def images(facts):
    """Accuracy on test images: the first cell of a grid minus each other one, in both analyses."""
    p_values, robust, second, edge = {}, set(), set(), set()
    changed, means, runs = {True: [], False: []}, {}, {}
    for path in sorted(ROWS.glob("paper/paper_*.csv")):
        grid, name = path.stem.removeprefix("paper_"), f"paper/{path.stem}"
        if "test_top1" not in (row := read(name)[0]):
            continue
        found, last = cells(name), cells(name, "test_last_top1")
        first, *others = found
        edge |= {f"{grid}: {r['cell']}" for r in read(name) if "edge" in r.get("tuned", "")}
        runs |= {f"{grid}: {cell}": values for cell, values in found.items()}
        own = {cell: np.mean(list(found[cell].values())) for cell in found if found[cell]}
        facts |= {f"mean of {grid}: {cell}": value for cell, value in own.items()}
        means |= own if row["epochs"] == "20" else {}
        for cell in others:
            key, values = f"{grid}: {cell}", minus(found[first], found[cell])
            if len(values) > 1:
                ends, p_values[key] = minus(last[first], last[cell]), p_value(values)
                robust |= {key} if grid != "long" and p_value(ends) < 0.05 else set()
                facts |= {key: values, f"{key} n": len(values), f"{key}, last": ends}
                facts[f"{key} at most"] = values.mean() + half(values)
        for depth in dict.fromkeys(cell.partition(", depth")[2] for cell in found):
            base, *own = (cell for cell in found if cell.partition(", depth")[2] == depth)
            own = [cell for cell in own if len(found[cell]) > 1 and cell != "all"]
            if own and len(found[base]) > 1:  # Dunnett's test, in depth of models of one depth
                samples = [list(found[cell].values()) for cell in [base, *own]]
                test = stats.dunnett(*samples[1:], control=samples[0], random_state=0)
                for cell, *ends in zip(own, *test.confidence_interval(), strict=True):
                    clear = math.prod(ends) > 0
                    second |= {f"{grid}: {cell}"} if clear else set()
                    if clear != (p_value(minus(found[base], found[cell])) < 0.05):
                        changed[clear].append(f"{grid}: {cell}")
    in_grid = {key: p for key, p in p_values.items() if key.startswith("models")}
    confidence(facts, in_grid, second, robust, edge)
    facts["in its grid"] = facts["models: ViT (GELU) Holm"]
    confidence(facts, p_values, second, robust, edge)
    facts |= {"paper": len(p_values), "changed": len(changed[True] + changed[False])}
    facts |= {"now clear": " + ".join(changed[True]), "now open": " + ".join(changed[False])}
    facts["highest mean"] = max(means, key=means.get)
    for one, other in itertools.permutations(runs, 2):
        key, values = f"{one} / {other}", minus(runs[one], runs[other])
        if len(values):
            ends = {f"{key} least": values.min(), f"{key} most": values.max()}
            facts |= {key: values, f"{key} ahead": (values > 0).sum(), **ends}
    lead, early = (facts[f"{grid}: KAT / {grid}: ViT (GELU)"] for grid in ("long", "models"))
    facts["change of the lead"] = lead - early[: len(lead)]


def other_fields(facts):
    """Errors of an arm over those of another less one, in percent, and counts by field."""
    errors, rates = {}, {}
    for field in ("tables", "physics", "language", "molecules", "images", "series"):
        for row in read(f"domains/{field}"):
            *body, arm = row["arm"].split("/")
            if row["for"] == "tune" and row["rate"]:
                tried = rates.setdefault((field, row["task"], *body, arm), {})
                tried[float(row["rate"])] = float(row["valid"])
            for part in ("test", "occluded", "corrupted") if row["for"] == "test" else ():
                arms = errors.setdefault(", ".join([field, row["task"], *body, part]), {})
                error = float(row.get(part) or 0) or math.nan  # without errors there is no ratio
                arms.setdefault(arm, {})[row["seed"]] = error
    for pair in PAIRS.split():
        p_values = {}
        for name, arms in errors.items():
            arms = errors.get(re.sub(", (resnet|transformer)", "", name), {}) | arms
            values = logs(*(arms.get(arm, {}) for arm in pair.split("/")))
            if len(values) and np.isfinite(values).all():
                key = ratio(facts, f"{name}: {pair}", values)
                if key == "language, python3-doc, test: grkan/gelu":
                    facts["language logs"] = -values
                p_values[key] = p_value(values)
        clear = {key for key, p in p_values.items() if p < 0.05}
        edge = {key for key in p_values if at_an_edge(rates, key, pair)}
        for *network, arm in rates:
            own = rates[(*network, arm)]
            facts[f"{', '.join(network)} {arm} largest"] = int(min(own, key=own.get) == max(own))
        confidence(facts, p_values, clear, clear, edge)
        for field in ("", "tables", "molecules", "series"):
            own = {key for key in p_values if key.startswith(field)}
            lower, higher = ([key for key in own & clear if facts[key] * s > 0] for s in (-1, 1))
            for name, keys in (("lower", lower), ("higher", higher), ("of", own)):
                facts[f"{pair} {field or 'all'} {name}"] = len(keys)
            facts[f"{pair} {field or 'all'} same"] = len(own - clear)
            wide = [key for key in own if facts[f"{key} word"] == "not informative"]
            facts[f"{pair} {field or 'all'} wide"] = len(wide)


def ratio(facts, key, values):
    """Adds the ratio of two errors less one, in percent, with its interval, under a key."""
    ends = values.mean() + np.array([0, -1, 1]) * half(values)
    facts |= zip((key, f"{key}<", f"{key}>"), 100 * np.expm1(ends), strict=True)
    facts[f"{key} n"] = len(values)
    return key


def longer(facts):
    """Language with four times the tokens, where GR-KAN is called plain: bits, not corrected."""
    rows, curves = read("domains/normalized-final"), {}
    errors = by_seed(rows, "test", "arm")
    for row in rows:
        curve = [math.log(float(point.partition(":")[2])) for point in row["curve"].split()]
        curves.setdefault(row["arm"], []).append(curve)
    for one, other in (("plain", "gelu"), ("act2", "plain")):
        values = logs(errors[one], errors[other])
        key = ratio(facts, f"longer: {one}/{other}", values)
        word = "not informative" if reach(facts, key) > 1 else "inconclusive"
        facts[f"{key} word"] = "significant" if p_value(values) < 0.05 else word
    facts["more tokens"] = int(rows[0]["tokens"]) / 1e6
    leads = np.subtract(curves["gelu"], curves["plain"])
    facts["change"] = 100 * (leads[:, -1] - leads[:, 4])  # since 0.8 M tokens
    leads = [facts["language logs"], logs(errors["gelu"], errors["plain"])]
    test = stats.ttest_ind(*leads, equal_var=False).confidence_interval()
    facts |= {"less at least": 100 * test.low, "less at most": 100 * test.high}
    facts["less"] = 100 * (np.mean(leads[0]) - np.mean(leads[1]))


def fixed(facts):
    """Language with the functions of another run, with the interval that was declared."""
    nats, bits, p_values = {}, {}, {}
    for row in (rows := read("domains/shapes")):
        if int(row["seed"]) < 40:  # the others are donors
            arm = f"{row['arm']} {row['steps']}"
            nats.setdefault(arm, {})[row["seed"]] = np.array(row["windows"].split(), float)
            bits.setdefault(arm, {})[row["seed"]] = float(row["test"])
    facts["shapes hours"] = sum(float(row["seconds"]) for row in rows) / 3600
    for arm, other in itertools.permutations(nats, 2):
        pairs = [(nats[arm][seed], nats[other][seed]) for seed in nats[arm] if seed in nats[other]]
        if arm.split()[1] != other.split()[1] or len(pairs) < 2:
            continue
        own, base = np.array(pairs).swapaxes(0, 1)
        change = 100 * (own - base) / base.mean()
        error = math.hypot(stats.sem(change.mean(1)), stats.sem(change.mean(0)))
        reach = stats.t.ppf(0.975, len(pairs) - 1) * error
        key = f"{arm} minus {other}"
        p_values[key] = 2 * stats.t.sf(abs(change.mean()) / error, len(pairs) - 1)
        facts |= {key: change.mean(), f"{key}<": change.mean() - reach}
        facts |= {f"{key}>": change.mean() + reach, f"{key} n": len(pairs)}
        facts |= {f"{key} least": change.mean(1).min(), f"{key} most": change.mean(1).max()}
        facts[f"{key} word"] = "inconclusive" if abs(change.mean()) < reach else "significant"
    facts |= {f"{arm} bits": np.mean([*values.values()]) for arm, values in bits.items()}
    own = [f"{arm} 400 minus fixed 400" for arm in CONTRASTS]
    first = min(own, key=p_values.get)
    facts |= {"most certain": first, "its Holm": len(own) * p_values[first]}


def tuned(facts):
    """Activations tuned alike: by length and arm, the run of the lowest error of validation."""
    rows = read("domains/step")
    for row in sorted(rows, key=lambda row: float(row["valid"]), reverse=True):
        if row["stage"] in ("1-tuning", "2-tuning"):
            names = {"valid": "valid", "rate": "rate", "factor": "multiplier"}
            key = f"{row['arm']} {row['steps']}"
            facts |= {f"{key} {name}": float(row[title]) for name, title in names.items()}
            facts[f"{key}, factor {row['multiplier']}"] = float(row["valid"])
    for steps, arms in {400: "gelu silu relu2 swiglu xielu", 1600: "gelu relu2 xielu"}.items():
        facts[f"best {steps}"] = min(arms.split(), key=lambda arm: facts[f"{arm} {steps} valid"])
    own = facts["gelu 400, factor 0.4"] / facts["gelu 400, factor 1.0"]
    facts["gelu 400, less"] = 100 - 100 * own
    for arm in ("gelu", "xielu"):
        facts[f"below {arm}"] = 100 - 100 * facts["fixed 400 valid"] / facts[f"{arm} 400 valid"]
    for arm in ("fixed", "grkan", "relu2"):
        ratio = facts[f"{arm} 1600 valid"] / facts["gelu 1600 valid"]
        facts[f"{arm} 1600, more"] = 100 * ratio - 100
    for title in ("ms/gelu", "kept/gelu"):
        known = column("domains/step-cost", title, key="arm")
        facts |= {f"{arm} {title}": value for arm, value in known.items()}


def tested(facts):
    """The test of activations tuned alike: contrasts of two arms in percent, by Student's t."""
    rows = [row for row in read("domains/step") if row["test"]]
    facts["step hours"] = sum(float(row["cpu_seconds"]) for row in read("domains/step")) / 3600
    errors = by_seed(rows, "test", "stage", "arm")
    for one, other in itertools.permutations(errors, 2):
        stage, arm = other.split()
        if not one.startswith(stage):
            continue
        stages = [name for name in errors if name.startswith(stage)]
        whole = set.intersection(*(set(errors[name]) for name in stages))
        pair = ({seed: errors[name][seed] for seed in sorted(whole)} for name in (one, other))
        percent = percents(*pair)
        key, mean = f"{one} minus {arm}", percent.mean()
        facts |= {key: mean, f"{key}<": mean - half(percent), f"{key}>": mean + half(percent)}
        facts |= {f"{key} n": len(percent), f"{key} p": p_value(percent)}
        facts |= {f"{key} least": max(percent), f"{key} most": min(percent)}
        facts[f"{one} bits"] = np.mean([errors[one][seed] for seed in whole])
    p_values = {key: facts[f"{key} p"] for key in DECLARED}
    largest = 0
    for rank, key in enumerate(sorted(p_values, key=p_values.get)):
        largest = max(largest, (len(p_values) - rank) * p_values[key])
        facts |= {f"{key} Holm": largest, f"{key} sure": int(largest < 0.05)}
    noise_of_text(facts, rows)
    limits(facts, rows, errors)


def limits(facts, rows, errors):
    """Beside the contrasts: validation, steps, the spread of GELU, its sixth seed, the bank."""
    valid = by_seed(rows, "valid", "stage", "arm")
    percent = percents(valid["3-test fixed"], valid["3-test gelu"])
    facts |= {"valid": percent.mean(), "valid<": percent.mean() - half(percent)}
    facts["valid>"] = percent.mean() + half(percent)
    bits = np.array(list(errors["3-test gelu"].values()))
    facts["gelu spread"] = 100 * bits.std(ddof=1) / bits.mean()
    base = {seed: bits for seed, bits in errors["5-functions gelu"].items() if seed != "66"}
    for arm in ("fixed", "pair", "one"):
        facts[f"five seeds {arm}"] = percents(errors[f"5-functions {arm}"], base).mean()
    bank = by_seed(read("domains/step-bank"), "test", "arm")
    for seed, percent in zip(bank["bank"], percents(bank["bank"], bank["gelu"]), strict=True):
        facts[f"bank {seed}"] = percent
    ends = {}
    for row in rows:
        last = float(row["curve"].split()[-1].partition(":")[2])
        ends.setdefault(f"{row['stage']} {row['arm']}", []).append(last)
    short, long = np.mean(ends["5-functions gelu"]), np.mean(ends["3-test gelu"])
    beyond = (long - np.mean(ends["3-test fixed"])) / (short - long)
    facts["steps more"] = 100 * (4**beyond - 1)


def noise_of_text(facts, rows):
    """The primary interval if the noise of the documents, in which the windows lie, is added."""
    parts = {row["task"]: row["windows"].split() for row in read("domains/step-documents")}
    nats = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        if row["stage"] == "3-test":
            nats.setdefault(row["arm"], []).append(np.array(row["windows"].split(), float))
    own, base = np.array(nats["fixed"]), np.array(nats["gelu"])
    left = (own - own.sum() / base.sum() * base).mean(0)
    documents = np.array(parts["python3-doc"])
    sums = np.array([left[documents == name].sum() for name in np.unique(documents)])
    error = 100 * math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / base.mean(0).sum()
    key = "3-test fixed minus gelu"
    seeds = (facts[f"{key}>"] - facts[key]) / stats.t.ppf(0.975, len(own) - 1)
    reach = stats.t.ppf(0.975, len(own) - 1) * math.hypot(seeds, error)
    facts |= {"text<": facts[key] - reach, "text>": facts[key] + reach, "documents": len(sums)}


def at_an_edge(rates, key, pair):
    """Whether an arm of a pair kept the lowest or the largest rate that was tried."""
    network = key.rpartition(":")[0].split(", ")[:-1]
    tried = [rates.get((*network, arm), {}) for arm in pair.split("/")]
    return any(min(own, key=own.get) in (min(own), max(own)) for own in tried if own)


def costs(facts):
    """Times and memory, parameters and FLOPs, and what a ViT might gain from as much of them."""
    titles = ("inference", "training step", "peak MB")
    for name, title in itertools.product(("tiny1", "tiny16", "amp"), titles):
        known = column(f"train_step/{name}", title)
        facts |= {f"{name} {model} {title}": value for model, value in known.items()}
        ratio = known["kat_tiny"] / known["vit_tiny, vit_blocks"]
        facts |= {f"{name} {title}": ratio, f"{name} less {title}": 100 - 100 * ratio}
    vit, _, kat = (int(row["parameters"].replace(",", "")) for row in read("train_step/amp"))
    layers = (kat - vit) // (6 + 8 * 4)  # the coefficients of eight groups
    facts |= {"more": kat - vit, "functions": 8 * layers, "channels": layers // 2 * (192 + 768)}
    lines = (ROWS / "train_step_micro_cpu.txt").read_text().splitlines()[4:]
    xeon = [float(line.split()[-5]) for line in lines]
    epyc = [float(row["training step"]) for row in read("train_step_kat2_micro_cpu")]
    rows = {row["cell"]: row for row in read("paper/paper_models")}.values()
    flops, sizes = ([int(row[name]) for row in rows] for name in ("flops", "parameters"))
    vit = cells("paper/paper_models")["ViT (GELU)"]
    gain = minus(cells("paper/paper_long")["ViT (GELU)"], vit).mean()
    extra = {"FLOPs": flops[0] / flops[1], "Xeon": xeon[1] / xeon[0], "EPYC": epyc[0] / epyc[2]}
    for name, ratio in extra.items():
        worth = gain * math.log(ratio) / math.log(3)
        facts[name] = 100 * (ratio - 1)
        facts[f"{name} share"] = 100 * worth / facts["models: ViT (GELU)"].mean()
    for name, counts in (("size", sizes), ("FLOPs", flops)):
        facts[f"{name} apart"] = 100 * (max(counts) / min(counts) - 1)
    facts |= {"most FLOPs": flops.index(max(flops)), "size": sizes[0] / 1e6, "tiny": kat / 1e6}
    facts |= {"KAN step": xeon[4] / xeon[0], "gain": gain}
    facts["gated FLOPs"] = 100 - 100 * flops[3] / flops[0]
    found = [row for row in read("rational_cpu") if row["shape"] == "16x197x768"]
    facts |= {f"operator {name}": float(found[1][f"{name} ms"]) for name in ("kat", "reference")}
    for name, title in (("compiled16", "training step"), ("compiled1", "inference")):
        times = column(f"train_step/{name}", title)
        facts[name] = times["kat"] / times["plain"]
    fused, frozen = read("train_step/frozen")[1:]
    for title, ratio in (("inference", "inference ratio"), ("training step", "training ratio")):
        eager = [facts[f"{name} {title}"] for name in ("tiny1", "tiny16", "amp")]
        eager = 100 * np.array([*eager, float(fused[ratio])]) - 100
        facts |= {f"eager {title} least": min(eager), f"eager {title} most": max(eager)}
        _, same, small = column("train_step/small8", title).values()
        vit, compiled, *_ = column("train_step/compiled1", title).values()
        facts |= {f"small {title}": small / same, f"compiled {title}": compiled / vit}
    facts |= {"fused step": float(fused["training ratio"])}
    facts |= {"frozen step": float(frozen["training ratio"])}
    facts["comparisons"] = sum(int(row["comparisons"]) for row in read("verify"))
    facts |= column("conversion_digits", "top1", key="checkpoint")


def single(facts):
    """Figures that are no differences from the first cell."""
    models, losses = cells("paper/paper_models"), cells("paper/paper_models", "test_loss")
    pair = [list(models[name].values()) for name in ("KAT", "ViT (GELU)")]
    facts |= {"KAT": np.mean(pair[0]), "ViT": np.mean(pair[1])}
    facts["correlation"] = np.corrcoef(pair)[0, 1]
    facts["test loss"] = minus(losses["KAT"], losses["ViT (GELU)"])
    depth = cells("paper/paper_depth")
    for scheme in ("published", "centered"):
        own = [cell for cell in depth if cell.startswith(f"init: {scheme}")]
        pairs = [(depth[cell.replace(scheme, "paper's")], depth[cell]) for cell in own]
        leads = np.concatenate([minus(*pair) for pair in pairs])
        facts |= {f"{scheme} least": min(leads), f"{scheme} most": max(leads)}
        facts |= {f"{scheme} behind": (leads > 0).sum(), f"{scheme} pairs": len(leads)}
        facts[scheme] = sum(len(depth[cell]) for cell in own)
    facts["finished"] = len(depth["init: paper's, depth: 24 blocks, norm: no norm"])
    rows = [row for row in read("paper/moments/paper_variance") if ".mlp." in row["layer"]]
    for cell, part in itertools.product(("paper's", "published"), "01"):
        own = [row for row in rows if row["cell"] == cell and row["part"] == part]
        gains = [float(row["gain"]) for row in own]
        facts |= {f"{cell} gain {part}": min(gains), f"{cell} largest {part}": max(gains)}
    for task, metric in (("det", "box_ap"), ("det", "mask_ap"), ("upernet", "miou")):
        names = [f"dense/{model}_{task}_micro-{seed}" for model in ("kat", "vit") for seed in "01"]
        best = [max(float(row[metric]) for row in read(name)) for name in names]
        facts |= {f"{metric} {number}": value for number, value in enumerate(best)}
        facts[metric] = np.subtract(best[:2], best[2:])
    swaps = [f"blocks: {block} / blocks: none" for block in ("first", "second", "third", "fourth")]
    facts["swapped"] = sum(facts[f"{swap} ahead"] for swap in swaps)
    for row in read("pinn"):
        for name in ("error", "residual", "jumps", "L-BFGS steps"):
            facts[f"{row['network']}, {row['adam']}, {name}"] = float(row[name])
    files = [f"paper/{path.stem}" for path in ROWS.glob("paper/*.csv")]
    rows = {row["run"]: row for name in files for row in read(name)}.values()
    kept = [row for row in rows if not re.search("kat2|residual", row["cell"])]
    facts["hours"] = sum(float(row["seconds"] or 0) for row in kept) / 3600
    row, *_ = read("domains/language")
    facts |= {"language": int(row["parameters"]) / 1e6, "tokens": int(row["tokens"]) / 1e6}


def archived(facts):
    """Arms that have left the library, and the short runs."""
    grids = [cells(f"paper/paper_search{end}", "top1") for end in ("", "_2", "_best")]
    facts["candidates"] = len(set().union(*grids)) - 1  # less KAT
    facts["chosen"] = minus(grids[-1]["gated, a group a head"], grids[-1]["KAT"])
    facts["clear on sets"] = 0
    for stage in ("series", "molecules", "language"):
        rows = read(f"domains/normalized-{stage}")
        # without errors there is no ratio
        rows = [row for row in rows if row["for"] == "test" and float(row["test"])]
        errors = by_seed(rows, "test", "arm", "task")
        for task in {row["task"] for row in rows if row["arm"] == "act2"}:
            values = logs(errors[f"act2 {task}"], errors[f"plain {task}"])
            facts["clear on sets"] += int(stage != "language" and p_value(values) < 0.05)
            ratio(facts, f"normalized, {task}", values)
    arms = column("domains/normalized-cost", "ratio", key="arm")
    facts["normalized step"] = arms["act2"]
    for grid in ("components", "degrees", "groups", "init", "share"):
        first, *others = cells(f"ablation/{grid}", "top1").values()
        facts[grid] = sum(p_value(minus(first, other)) < 0.05 for other in others)
    short = cells("ablation/components", "top1")
    facts["short, components"] = minus(short["KAT"], short["none of them (ViT, SiLU)"])
    short = cells("ablation/models", "top1")
    facts["short, GELU"] = minus(short["KAT"], short["ViT (GELU)"])
    facts["short, SwiGLU"] = minus(short["KAT (gated)"], short["ViT (SwiGLU)"])
    schemes = by_seed(read("stability"), "best_val_top1", "mlp_init")
    facts["short, scheme"] = minus(schemes["variance_preserving"], schemes["trunc_normal"])


def tables(facts):
    """Rows of single tables: the kept epoch, adapters, the decoder, 34 optimizers."""
    for rule in ("last", "loss", "ema"):
        values = [float(row[rule]) - float(row["top1"]) for row in read("kept_epoch")]
        facts[f"kept {rule}"] = values
    rows = [row for row in read("gated_finetune") if row["for"] == "test"]
    tuned = by_seed(rows, "test", "source", "arm")
    for one, other in itertools.permutations(tuned, 2):
        facts[f"{one} / {other}"] = minus(tuned[one], tuned[other])
    rows = [row for row in read("decoder") if row["run"] == "example"]
    bits = by_seed(rows, "bits", "optimizer", "groups", "clip")
    for one, other in itertools.permutations(bits, 2):
        for seed in bits[one].keys() & bits[other]:
            own, base = bits[one][seed], bits[other][seed]
            facts[f"{one} / {other}, seed {seed}"] = 100 * own / base - 100
            facts[f"{one} - {other}, seed {seed}"] = own - base
    losses = {}
    for row in read("any_optimizer"):
        rates = losses.setdefault((row["arm"], row["optimizer"]), {})
        rates.setdefault(row["lr"], []).append(float(row["relative_loss"]))
    best = {key: min(map(np.median, own.values())) for key, own in losses.items()}
    worst = {key: max(map(np.median, own.values())) for key, own in losses.items()}
    names = {name for _, name in best}
    facts["optimizers"] = len(names)
    facts["ended higher"] = sum(best["grkan", name] > best["fixed", name] for name in names)
    facts["did not fall"] = sum(loss >= 1 for loss in worst.values())


def rounded(facts, key, text):
    """A figure as a text of the page has it, in a word or with as many digits; -KEY negates it."""
    value = -facts[key[1:]] if key.startswith("-") else facts[key]
    if isinstance(value, str) or text in WORDS:
        return value if isinstance(value, str) else WORDS[value]
    if "e-" in text or "e+" in text:
        return f"{value:.1e}"
    mean, *rest = text.split(" ± ")
    places = len(mean.partition(".")[2])
    sign, comma = "+" * (mean[0] == "+"), "," * ("," in mean)
    shown = f"{np.mean(value):{sign}{comma}.{places}f}"
    return " ± ".join([shown, *(f"{half(value):.{places}f}" for _ in rest)])


def check(text, lines, facts):
    """Lines for what is wrong on a page, and how many of its figures the rows have."""
    wrong, place, count, rest = [], 0, 0, list(text)
    for fragment, *conditions in (line.split(" <= ") for line in lines if line[:1] not in "#="):
        for key in re.findall(r"\[(\w[^{}]*)\]", fragment):
            ends = f"…({{{key}<}} to {{{key}>}})" if f"{key}<" in facts else ""
            row = f"{{{key}}}{ends}… | {{{key} word}}…({{{key} n}})"
            fragment = fragment.replace(f"[{key}]", row)
        literals, keys = re.split(r"\{.*?\}", fragment), re.findall(r"\{(.*?)\}", fragment)
        pattern = FIGURE.join(re.escape(each).replace("…", "[^|]*?") for each in literals)
        found = re.compile(pattern).search(text, place)
        wrong += [] if found else [f"the page lacks: {fragment}"]
        for number, key in enumerate(keys if found else (), 1):
            said, place, count = found[number], found.end(), count + 1
            rest[slice(*found.span(number))] = "_" * len(said)
            if said != (fact := rounded(facts, key, said)):
                wrong.append(f"{found[0]}: the page says {said}, the rows say {fact}")
        for key, expected in (condition.split(" = ") for condition in conditions):
            if rounded(facts, key, expected) != expected:
                wrong.append(f"{fragment}: does not follow, {key} is {facts[key]}")
    for found in re.finditer("|".join(line[2:] for line in lines if line[:1] == "="), text):
        rest[slice(*found.span())] = "_" * len(found[0])
    for found in re.finditer(r"\d[\d.,]*", "".join(rest)):
        near = text[max(0, found.start() - 40) : found.end() + 20]
        wrong.append(f"no fragment covers {found[0]}: {near}")
    return wrong, count


def recompute(folder):
    """What is wrong on the pages, a line each, and the number of figures that were compared."""
    facts, wrong, count = {}, [], 0
    language = longer, fixed, tuned, tested
    for part in (images, other_fields, *language, costs, single, archived, tables):
        part(facts)
    everywhere, *pages = Path(__file__).with_suffix(".txt").read_text().split("\n@ ")
    for name, *lines in map(str.splitlines, pages):
        text = TABLE.sub("", (folder / name).read_text().replace("\n>", "\n"))
        text = " ".join(text.replace("\u2212", "-").split())
        of_page, figures = check(text, [*lines, *everywhere.splitlines()], facts)
        wrong += [f"{name}: {line}" for line in of_page]
        count += figures
    return wrong, count


if __name__ == "__main__":
    wrong, count = recompute(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs")
    raise SystemExit("\n".join(wrong) if wrong else print(f"{count} figures recomputed"))
