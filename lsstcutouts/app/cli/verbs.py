"""The verbs and their help."""

import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from textwrap import fill

__all__ = ["CONFIGS", "VERBS", "Verb", "overview", "verb_help"]

CONFIGS = "lsstcutouts.configs"
"""Package with the configuration files: ``VERB.yaml`` and the groups."""


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes
    ----------
    target
        ``"module:function"`` to call with the configuration.
    summary
        What the verb does, half a line.
    details
        Further description.
    examples
        Complete commands.
    actions
        Words that may follow the verb, short for ``action=WORD``.
    """

    target: str
    summary: str
    details: str
    examples: tuple[str, ...]
    actions: tuple[str, ...] = ()


VERBS = {
    "simulate": Verb(
        target="lsstcutouts.app.cli.simulating:run",
        summary="write a small Butler repository with simulated images and known truth",
        details="Stars, galaxies and gravitational lenses in the file formats of DP2 or DP1, with truth.parquet, a"
        " catalog of the targets, beside them.",
        examples=(
            "lsstcutouts simulate root=demo/repo",
            "lsstcutouts simulate root=demo/dp1 release=dp1 cells=4 patches=1 bands=gri",
        ),
    ),
    "doctor": Verb(
        target="lsstcutouts.app.doctor:run",
        summary="test this machine, its packages and a repository",
        details="Tests, each with one line of advice. Without repo= a tiny repository is written, tested and"
        " removed. The exit status is 1 when a test fails; a warning leaves it 0.",
        examples=("lsstcutouts doctor", "lsstcutouts doctor repo=dp2 collections=dp2 json=true"),
    ),
    "plan": Verb(
        target="lsstcutouts.app.cli.planning:run",
        summary="find the images of the targets of a catalog, and estimate what must be read",
        details="Counts targets by tract and patch, bands that are missing, targets outside the coverage and bytes to"
        " read; of a remote repository also what is downloaded, what the disk cache has of it, and how long that takes. With splits.shares= the targets are assigned to splits; it is an error if your own splits share pixels. With output= the"
        " plan is written as Parquet, for CutoutPlan.load.",
        examples=(
            "lsstcutouts plan repo=demo/repo collections=dp2 catalog=demo/repo/truth.parquet",
            "lsstcutouts plan repo=dp2 collections=dp2 catalog='my targets.fits' bands=gri size=128 output=plan.parquet",
            "lsstcutouts plan repo=dp2 collections=dp2 catalog=t.parquet 'splits.shares={train: 0.7, val: 0.2, test: 0.1}' ranks=8",
        ),
    ),
    "normalise": Verb(
        target="lsstcutouts.app.cli.normalising:run",
        summary="fit pixel statistics of each band to a sample of the training split",
        details="Median, noise and quantiles of the valid pixels, as YAML for data.normalisation.statistics= of train, and a picture of"
        " them before and after the normalisation. With the same data and seed as train the split is the same; train"
        " fits them by itself too.",
        examples=(
            "lsstcutouts normalise",
            "lsstcutouts normalise data=dp2 data.catalog=lenses.parquet normalisation=lupton output=dp2.yaml",
        ),
    ),
    "train": Verb(
        target="lsstcutouts.app.training:train",
        summary="train a network on cutouts that are streamed from a repository",
        details="Without settings: the demo, on a simulated repository that is written first. Relative paths start at"
        " the current folder; results go to output=.",
        examples=(
            "lsstcutouts train",
            "lsstcutouts train data=dp2 data.catalog=lenses.parquet trainer=gpu trainer.max_epochs=20",
            "lsstcutouts train resume=outputs/train/last.ckpt trainer.max_epochs=30",
            "lsstcutouts train -m seed=0,1,2",
            "lsstcutouts train hparams_search=lr_width",
        ),
    ),
    "predict": Verb(
        target="lsstcutouts.app.training:predict",
        summary="write the predictions of a trained network for every target of a catalog",
        details="A Parquet file with each row of the catalog once: score, tract, patch, quality, and the reason where there"
        " is no score. Data, normalisation and network are read from the checkpoint; catalog, repository, batch size"
        " and output can be changed. For a HATS catalog of any size give a folder as output: it becomes a HATS collection"
        " with the partitions of the catalog, written one by one in this process, or with engine=dask on workers. Then the"
        " same command continues after an interruption; a partition that fails is listed, and the exit status is 2.",
        examples=(
            "lsstcutouts predict checkpoint=outputs/train/model.ckpt",
            "lsstcutouts predict checkpoint=best.ckpt data.catalog=targets.parquet trainer=gpu output=scores.parquet",
            "lsstcutouts predict checkpoint=best.ckpt catalog=object_hats output=scores engine=dask",
            "lsstcutouts predict checkpoint=best.ckpt catalog=object_hats output=scores part=1/20",
        ),
    ),
    "export": Verb(
        target="lsstcutouts.app.cli.export_command:run",
        summary="cut out the targets of a catalog of any size and write them as a HATS collection",
        details="Partition after partition in this process, or with engine=dask on workers. Prints first how many rows, bytes and how"
        " much time it will take. The same command continues after an interruption; what is finished is not read again. A"
        " partition that fails is listed, and the exit status is 2. Train from it with data.repo=FOLDER; open it with"
        " lsdb.open_catalog. verify compares rows of the export with the repository, bit for bit.",
        examples=(
            "lsstcutouts export catalog=demo/repo/truth.parquet repo=demo/repo collections=dp2 output=cutouts size=32",
            "lsstcutouts export catalog=object_hats repo=dp2 collections=dp2 output=cutouts select='i_cModelFlux > 1e4' engine=dask",
            "lsstcutouts export catalog=object_hats repo=dp2 collections=dp2 output=cutouts part=1/20",
            "lsstcutouts export verify output=cutouts rows=1000",
        ),
        actions=("run", "verify"),
    ),
    "gallery": Verb(
        target="lsstcutouts.app.cli.gallery_command:run",
        summary="draw cutouts of chosen targets, for print, as image files, or as a page for the browser",
        details="The catalog is any catalog, or a file of predictions, which knows its repository; repo= may also be an export."
        " The page for the browser works from the disk: look, filter, sort, label with the keys 1 to 9, and save the labels as"
        " a catalog for train. What exists at output= is replaced.",
        examples=(
            "lsstcutouts gallery catalog=demo/repo/truth.parquet repo=demo/repo collections=dp2 output=demo.html limit=200",
            "lsstcutouts gallery catalog=scores.parquet output=candidates.html sort=-score limit=2000 panels=both",
            "lsstcutouts gallery catalog=scores.parquet output=best.pdf select='score > 0.9' caption='{object_id}\\n{score:.3f}' circle=2",
            "lsstcutouts gallery repo=cutouts output=pictures/ outline=[SATURATED] panels=bands stretch=zscale",
        ),
    ),
    "benchmark": Verb(
        target="lsstcutouts.app.benchmark.run:run",
        summary="measure the speed of your own plan on this machine, and say what limits it and which setting to change",
        details="Measures loader and reader beside a loop over butler.get and tensors in memory, in turn; all must give the"
        " same pixels. With plan=, or with repo=, collections= and catalog=; without them on the demo's simulated repository,"
        " which is written first. Takes less than two minutes. Says first whether the machine is busy, prints one table,"
        " and writes benchmark.json and benchmark.png into output=.",
        examples=(
            "lsstcutouts benchmark",
            "lsstcutouts benchmark repo=dp2 collections=dp2 catalog=targets.parquet bands=gri size=64",
            "lsstcutouts benchmark plan=plan.parquet planes=[image,variance,mask] threads=[1,2,4] workers=[0,2]",
        ),
    ),
    "cache": Verb(
        target="lsstcutouts.app.cli.caching:run",
        summary="show, clear, check or fill the disk cache of remote files",
        details="Bytes of remote files are kept on the disk, in LSSTCUTOUTS_CACHE, up to LSSTCUTOUTS_CACHE_BYTES. fill fetches"
        " all that an epoch of a plan reads: afterwards a training needs neither network nor token. What is there already is"
        " not fetched again, so the same command continues after an error. check reads all records and removes damaged"
        " segments; clear removes everything.",
        examples=(
            "lsstcutouts cache",
            "lsstcutouts cache fill plan=plan.parquet planes=[image,variance]",
            "lsstcutouts cache check",
            "lsstcutouts cache clear",
        ),
        actions=("show", "clear", "check", "fill"),
    ),
}

_WAYS = """\
Settings are written key=value; they follow hydra's grammar: lists as [a,b], nested keys with dots, -m key=1,2 to run
with each value. A value that this grammar cannot read, or that names an existing file or folder, is taken literally,
so paths may contain spaces, =, commas and brackets (quote them for the shell).
json=true prints only the result, as JSON, on standard output; debug=true prints tracebacks of errors.
--cfg job prints the whole configuration; --config-dir FOLDER adds your own configuration files.
"""


def overview() -> str:
    """Return the help of the whole script."""
    lines = ["Stream multi-band cutouts from Rubin/LSST Butler repositories into PyTorch training.", ""]
    lines += ["    lsstcutouts VERB [key=value ...]", ""]
    for name, verb in VERBS.items():
        lines += [f"  {name:<9} {verb.summary}", f"            {verb.examples[0]}"]
    return "\n".join(
        [*lines, "", "lsstcutouts VERB --help lists its settings; lsstcutouts --version prints the version."]
    )


def verb_help(name: str) -> str:
    """Return the help of one verb: examples, settings with their defaults, and configuration groups."""
    verb = VERBS[name]
    parts = [f"lsstcutouts {name}: {verb.summary}.", fill(verb.details, 110)]
    parts.append("Examples:\n" + "\n".join(f"  {example}" for example in verb.examples))
    source = files(CONFIGS).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    parts.append("Settings and their defaults:\n" + _indented(_settings(source)))
    groups = _groups(source)
    if groups:
        parts.append("Groups of settings, chosen as group=name:\n" + _indented("\n".join(groups)))
    return "\n\n".join([*parts, _WAYS])


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())


def _settings(source: str) -> str:
    """Return the text of a configuration file without its defaults list, hydra's own part, and its title."""
    kept, skipping = [], False
    for line in source.splitlines():
        if line and not line[0].isspace():
            skipping = line.startswith(("defaults:", "hydra:", "# lsstcutouts"))
        if not skipping:
            kept.append(line)
    return "\n".join(kept).strip("\n")


def _groups(source: str) -> list[str]:
    """Return "data=demo (or dp1, dp2)" for the groups that a configuration file's defaults list names."""
    chosen = re.findall(r"^ *- (\w+): *([\w.-]+)", source, re.MULTILINE)
    return [_group(group, option) for group, option in chosen if files(CONFIGS).joinpath(group).is_dir()]


def _group(group: str, option: str) -> str:
    others = sorted(_stem(file) for file in files(CONFIGS).joinpath(group).iterdir() if file.name.endswith(".yaml"))
    rest = ", ".join(other for other in others if other != option)
    return f"{group}={option}" + (f" (or {rest})" if rest else "")


def _stem(file: Traversable) -> str:
    return file.name.removesuffix(".yaml")
