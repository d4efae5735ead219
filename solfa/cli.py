"""The command line: one table of commands, each imported only when it is chosen, so that `--help` needs no torch.

A command is an annotated function in its own part of solfa; typer turns its signature into options and its docstring
into help.  What a user can mend ends in one sentence on stderr and exit code 2; a batch that failed in part exits with 1.
"""

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, NoReturn, cast

from solfa.core.errors import UserError

# command: ("module:function", what it does in one line)
COMMANDS: dict[str, tuple[str, str]] = {
    "say": ("solfa.tts.say:say", "Speak a text in a voice and a style given in plain words."),
    "voices": ("solfa.tts.voices:voices", "List the voices that `say` can speak in."),
    "demo": ("solfa.demos.app:demo", "Open the demo in a browser: speak, and listen to the codec."),
    "tokenize": (
        "solfa.tokenizers.datasets.commands.tokenize_corpus:tokenize",
        "Turn a corpus of audio into a folder of token shards.",
    ),
    "reconstruct": (
        "solfa.tokenizers.datasets.commands.reconstruct:reconstruct",
        "Turn tokens, or audio itself, into decoded audio.",
    ),
    "inspect": (
        "solfa.tokenizers.datasets.commands.inspect_tokens:inspect",
        "Show what token shards hold: hours, speakers, use of codes, any row.",
    ),
    "compress": (
        "solfa.tokenizers.datasets.commands.compress_audio:compress",
        "Turn recordings into small .sfa files, which reconstruct reads.",
    ),
    "prepare tts": (
        "solfa.tts.data.prepare_tts:prepare",
        "Measure and describe clips: the training data of speech.",
    ),
    "train codec": ("solfa.tokenizers.training.train_codec:train", "Train the audio tokenizer."),
    "train prior": (
        "solfa.tokenizers.training.train_prior:train",
        "Learn which codes follow which, for smaller .sfa files.",
    ),
    "train tts": ("solfa.tts.training.train_tts:train", "Train the TTS model on tokenized, prepared clips."),
    "train omni": ("solfa.omni.training.train_omni:train", "Train the decoder on text, audio tokens, or both."),
    "convert": ("solfa.omni.convert.convert:convert", "Turn a transformers checkpoint into ours, or ours into one."),
    "eval codec": ("solfa.tokenizers.evaluation.evaluate_codec:evaluate", "Measure the codec per number of books."),
    "eval tts": ("solfa.tts.evaluation.evaluate_tts:evaluate", "Measure how well speech follows text and instruction."),
    "bench codec": (
        "solfa.tokenizers.evaluation.bench_codec:bench",
        "Compare the codec's speed and memory with Mimi, EnCodec and DAC.",
    ),
    "bench decode": (
        "solfa.omni.evaluation.bench_decode:bench",
        "Measure what sliding layers and drafts save when a decoder writes.",
    ),
    "bench tts": (
        "solfa.tts.evaluation.bench_tts:bench",
        "Measure how fast speech is made, and which part of the model takes the time.",
    ),
    "info": ("solfa.info:info", "Show versions, device, bundled checkpoints and optional parts."),
}

EXAMPLES = """\
Examples:
  solfa say "It's snowing!" --style "a cheerful young woman, speaking fast" -o snow.wav
  solfa tokenize recordings/ -o tokens/
  solfa reconstruct tokens/ -o back/ --books 8
"""

SENTENCE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT,
    errno.EEXIST, errno.ENAMETOOLONG, errno.EADDRINUSE,
}  # fmt: skip


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code (0 done, 1 done in part, 2 the user's mistake, 130 interrupted)."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run one command; -> exit code.  Errors that the user can mend are printed as one sentence."""
    try:
        return dispatch(argv)
    except UserError as e:
        return complain(str(e))
    except ModuleNotFoundError as e:
        extra = extra_of(e.name or "")
        if extra is None:
            raise
        return complain(f'this command needs the module {e.name}: run pip install ".[{extra}]"')
    except KeyboardInterrupt:
        print("solfa: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `solfa voices | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:
        if e.errno not in SENTENCE_ERRNOS:
            raise
        return complain(f"{e.filename or 'a file'}: {(e.strerror or str(e)).lower()}")


def complain(sentence: str) -> int:
    print(f"solfa: {sentence}", file=sys.stderr)
    return 2


def dispatch(argv: list[str]) -> int:
    """Find the command that `argv` starts with, import it and run it on the rest."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(""))
        return 0
    if argv[0] in ("-V", "--version"):
        import solfa

        print(f"solfa {solfa.__version__}")
        return 0
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return invoke(name, argv[words:])
    group = argv[0]
    members = [name for name in COMMANDS if name.startswith(f"{group} ")]
    if members and argv[1:2] in ([], ["-h"], ["--help"]):
        print(overview(group))
        return 0 if argv[1:] else 2
    wrong, known = (" ".join(argv[:2]), members) if members else (group, list(COMMANDS))
    near = difflib.get_close_matches(wrong, known, n=1)
    raise UserError(f"there is no command {wrong!r}{f', perhaps {near[0]!r}' if near else ''}; see solfa --help")


def overview(group: str) -> str:
    """The help page of solfa, or of a group of commands such as `train`."""
    shown = {name: line for name, (_, line) in COMMANDS.items() if not group or name.startswith(f"{group} ")}
    width = max(map(len, shown)) + 2
    page = [f"Usage: solfa {group or 'COMMAND'} ...", ""]
    page += [f"  {name:<{width}}{line}" for name, line in shown.items()]
    page += ["", f"solfa {group or 'COMMAND'}{' COMMAND' if group else ''} --help explains a command."]
    return "\n".join(page if group else [*page, "", EXAMPLES])


def invoke(name: str, arguments: list[str]) -> int:
    """Build the command's typer app and run it."""
    import typer

    module, function = COMMANDS[name][0].split(":")
    command: Callable[..., object] = getattr(import_module(module), function)
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]  # wherever this version of typer keeps it
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command(name, context_settings={"help_option_names": ["-h", "--help"]})(command)
    try:
        result = typer.main.get_command(app).main(arguments, prog_name=f"solfa {name}", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except usage_error as e:
        return complain(f"{cast(Any, e).format_message().rstrip('.')}; see solfa {name} --help")
    if result == 130:  # how some versions of typer report an interrupt, others raise Abort
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def extra_of(module: str) -> str | None:
    """The first extra of solfa that installs the distribution which this module is named after."""
    wanted = module.partition(".")[0].replace("_", "-").lower()
    for extra, distributions in extras().items():
        if wanted in distributions:
            return extra
    return None


def extras() -> dict[str, list[str]]:
    """Distributions by extra, from the installed metadata; an extra made of other extras is left out."""
    found: dict[str, list[str]] = {}
    for requirement in metadata.requires("solfa") or []:
        text, _, marker = requirement.partition(";")
        name = re.match(r"[\w.-]+", text)
        extra = re.search(r"extra == [\"']([\w-]+)[\"']", marker)
        if name and extra and name[0] != "solfa":
            found.setdefault(extra[1], []).append(name[0].lower().replace("_", "-"))
    return found
