"""What surrounds a run on the command line: readable errors, exit codes, jobs of a multirun.

A grid needs no ``-m``: each file of ``conf/grid/`` sets ``hydra.mode=MULTIRUN`` and the sweeper's
parameters, which Hydra reads before it decides how to run. Kept free of torch, so that ``--help``
is quick.
"""

from __future__ import annotations

import difflib
import gc
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from gprl_lightning.cli.console import be_patient
from gprl_lightning.cli.quick_help import quicken_help
from gprl_lightning.cli.sweep_file import as_multirun
from gprl_lightning.config.validation import did_you_mean
from gprl_lightning.errors import ConfigError, GridFailed, InvariantError
from gprl_lightning.runtime.disk import CLOSED, FULL, disk_error
from gprl_lightning.runtime.run_lock import is_first_process, only_run_in
from gprl_lightning.tracking.grid_results import COMPOSED_FILE, COST_FILE, ERROR_FILE, FINISHED_FILE

FULL_ERROR = "HYDRA_FULL_ERROR"
OURS = "GPRL_ONE_MESSAGE"  # FULL_ERROR was set here, and not by the user; for processes of a run
CHECKOUT, INSTALLED = "python train.py", "gprl-train"
EXIT_JOBS_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_INVARIANT = 3
EXIT_INTERRUPTED = 130


def command() -> str:
    """Resolve ``${command:}`` in conf/: how this program is called, from a checkout or
    installed."""
    return INSTALLED if Path(sys.argv[0]).name == INSTALLED else CHECKOUT


OmegaConf.register_new_resolver("command", command, replace=True)


def run(main: Callable[[], None]) -> None:
    """Run a Hydra main function; exit with one message and 2 where the configuration is at fault,
    3 where the run broke an invariant.

    Hydra would print its own errors and exit with 1; with ``HYDRA_FULL_ERROR`` it raises them
    instead, which is set here to get hold of them. If the user has set it, everything is shown as
    it comes. Ctrl-C before the first iteration is 130.
    """
    be_patient()
    quicken_help()
    try:
        sys.argv = [sys.argv[0], *as_multirun(sys.argv[1:])]
    except ConfigError as error:
        _exit(str(error), EXIT_CONFIGURATION)
    if os.environ.get(FULL_ERROR) == "1" and OURS not in os.environ:
        return main()
    os.environ[FULL_ERROR] = os.environ[OURS] = "1"
    try:
        main()
    except GridFailed as error:
        _exit(str(error), EXIT_JOBS_FAILED)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        _exit(f"{explain(error)}\n(HYDRA_FULL_ERROR=1 shows where.)", EXIT_CONFIGURATION)
    except InvariantError as error:
        _exit(f"{type(error).__name__}: {error}\n(HYDRA_FULL_ERROR=1 shows where.)", EXIT_INVARIANT)
    except AssertionError as error:
        # What OmegaConf says to a key inside a section that is null: only policy.lora can be.
        if "Unexpected type for root" not in str(error):
            raise
        _exit(
            "A key inside a section that is null. For policy.lora.*: add lora=adapters.",
            EXIT_CONFIGURATION,
        )
    except KeyboardInterrupt:
        _exit("Stopped before the first iteration; nothing was begun.", EXIT_INTERRUPTED)
    except Exception as error:
        message, code = of_the_disk(error)
        if not message:
            raise
        _exit(f"{message}\n(HYDRA_FULL_ERROR=1 shows where.)", code)
    finally:
        os.environ.pop(FULL_ERROR, None)
        os.environ.pop(OURS, None)


def of_the_disk(error: BaseException) -> tuple[str, int]:
    """Return one message, and the exit code, if it was a disk that said no; else an empty one."""
    cause: BaseException | None = error
    while cause is not None:
        number = disk_error(cause)
        place = getattr(cause, "filename", None) or "a file of the run"
        if number in FULL:
            return (
                f"OutOfDisk: paths.output: expected to write {place}; found: "
                f"{os.strerror(number)}. Free some space, or set another paths.output or "
                "paths.cache; the same command goes on from the newest checkpoint, if there is one."
            ), EXIT_INVARIANT
        if number in CLOSED:
            return (
                f"paths.output: expected to write {place}; found: {os.strerror(number)}. Make it "
                "writable, or set another hydra.run.dir, paths.output or paths.cache."
            ), EXIT_CONFIGURATION
        cause = cause.__cause__ or cause.__context__
    return "", 0


def _exit(message: str, code: int) -> None:
    sys.stderr.write(message.rstrip().replace(CHECKOUT, command()) + "\n")
    sys.exit(code)


def explain(error: Exception) -> str:
    """Return one message for a configuration that does not work, with the nearest name that
    does."""
    if isinstance(error, ConfigError):
        return str(error)
    text = str(error).split("\nConfig search path", 1)[0]
    if isinstance(error.__cause__, OmegaConfBaseException):
        text += "\n" + str(error.__cause__).splitlines()[0]
    if key := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(key.group(1))
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option:
        choices = re.findall(r"^\t(\S+)", text, re.MULTILINE)
        near = difflib.get_close_matches(option.group(2), choices, n=1)
        hint = f" Did you mean {option.group(1)}={near[0]}?" if near else ""
        return (
            f"{option.group(1)}={option.group(2)}: there is no such option.{hint} "
            f"The options are {', '.join(choices)}."
        )
    if section := re.search(r"full_key: (\S+)", text):
        return _not_built(section.group(1), text.partition("\nfull_key:")[0])
    return text


def _not_built(section: str, text: str) -> str:
    """Hydra could not import or call what ``section._target_`` names."""
    target = re.search(r"target '([^']+)'", text)
    name = f"{section}._target_" + (f"={target.group(1)}" if target else "")
    found = text.partition("\n")[2].strip() or text.partition(",")[0]
    return (
        f"{name}: expected a class and options that it takes; found: {found}. Correct {section}.*"
    )


def _unknown_key(key: str) -> str:
    section = key.partition(".")[0]
    hint = did_you_mean(key)
    if not hint and section in ("optimizer", "trainer", "callbacks", "logger"):
        hint = f" To pass it on all the same, write +{key}=... ."
    return f"{key}: there is no such key.{hint} All keys: python train.py --cfg job"


@contextmanager
def first_imports() -> Iterator[None]:
    """Wrap a process's heavy imports: the garbage collector rests, and never looks at them again.

    Searching what they make, of which nothing is garbage, takes a fifth of their time. In the later
    jobs of a multirun there is nothing left to import, and what is alive is not to be kept.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def job() -> Iterator[None]:
    """Wrap one run: lock its folder, note that it ended well and its cost, and isolate its
    subprocesses.

    A folder is used again when a failed job, or one whose configuration has changed, is run again;
    the results in it are the earlier run's until the new one begins (`run_folder.begin`).
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    composed = folder / COMPOSED_FILE
    with only_run_in(folder):
        # Another call in this folder, refused by the lock, writes its own over it before.
        made_of = composed.read_bytes() if composed.exists() else None
        (folder / ERROR_FILE).unlink(missing_ok=True)
        arguments, started = sys.argv, time.process_time()
        if hydra.mode == RunMode.MULTIRUN:
            sys.argv = [arguments[0], *_as_single_run(folder)]
        try:
            yield
        except Exception as error:
            _last_words(folder, error)
            raise
        finally:
            sys.argv = arguments
        (folder / COST_FILE).write_text(f"{time.process_time() - started:.3f}\n")
        if made_of is not None:
            (folder / FINISHED_FILE).write_bytes(made_of)


def _last_words(folder: Path, error: Exception) -> None:
    """Leave in a later process's log what it died of, for the first one to say."""
    if not is_first_process(os.environ):
        with suppress(OSError), (folder / f"{HydraConfig.get().job.name}.log").open("a") as log:
            log.write("".join(traceback.format_exception_only(error)))


def _as_single_run(folder: Path) -> list[str]:
    """The arguments that repeat this job alone, in its own folder.

    Lightning starts the other processes of a DDP run with ``sys.argv`` and ``hydra.run.dir``; with
    those of the multirun each would start the whole multirun.
    """
    cfg: Any = HydraConfig.instance().cfg
    with read_write(cfg.hydra.run):
        cfg.hydra.run.dir = str(folder)
    overrides = OmegaConf.to_container(cfg.hydra.overrides.task)
    assert isinstance(overrides, list)
    return [*map(str, overrides), "hydra.mode=RUN"]
