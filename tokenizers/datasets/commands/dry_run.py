"""`solfa tokenize --dry-run`: what a run would do, by file names and headers alone; nothing is written."""

from pathlib import Path

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import probe
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.datasets.commands.clip_results import Plan
from solfa.tokenizers.datasets.commands.corpus_share import Share
from solfa.tokenizers.datasets.commands.resume_check import check_sources, settings_of
from solfa.tokenizers.datasets.commands.shared_options import check_books, header_of
from solfa.tokenizers.datasets.readers.clip import Corpus
from solfa.tokenizers.datasets.shards.manifest_file import check_settings, read_manifest
from solfa.tokenizers.datasets.shards.shard_formats import FORMATS
from solfa.tokenizers.datasets.shards.shards import check_format, check_header, check_overwrite, read_whole


def dry_run(
    codec: Codec,
    corpus: Corpus,
    output: Path,
    books: int | None,
    limit: int | None,
    overwrite: bool,
    share: Share,
    format: str,
    plan: Plan,
    source: str = "",
) -> str:
    """What a run would do, in one sentence; touches nothing.  Raises: UserError where it would refuse to begin."""
    done: set[str] = set()
    check_overwrite(output, overwrite, share.part)
    header = header_of(codec, check_books(codec, books))
    manifest = read_manifest(output)
    if not overwrite:
        check_format(output, header, format)
        files = FORMATS[format](output, header)
        for path in files.files():
            found, rows = read_whole(files, path, ["id", "duration"])
            check_header(output, found, header)
            done.update(row["id"] for row in rows)
        if done:
            check_settings(output, manifest, settings_of(plan))
            check_sources(files, output, corpus, manifest, source)
    clips = skipped = unread = 0
    seconds = 0.0
    for clip in share.of(corpus, limit):
        if clip.id in done:
            skipped += 1
            continue
        clips += 1
        try:
            found_seconds = probe(clip.path, clip.data() if clip.data else None).duration
            seconds += clip.span[1] if clip.span else found_seconds
        except UserError:
            unread += 1
    bad = f", {unread} of them unreadable" if unread else ""
    size = codec.bitrate(books) / 8e6 * seconds
    return f"would tokenize {clips} clips{bad}, {seconds / 3600:.2f} h by their headers, about {size:.1f} MB -> {output}; {skipped} are there already"
