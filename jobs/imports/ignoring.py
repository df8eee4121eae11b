"""`Ignore`: what of a tree is left out of an import: hidden files, what programs leave behind, and what patterns as in
`.gitignore` say."""

from collections.abc import Collection
from pathlib import Path

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore import GitIgnorePatternError

from docworker.db.documents.folders import FolderPath
from docworker.db.documents.names import composed
from docworker.db.errors import InvalidArgumentError

IGNORE_FILE = ".docworkerignore"
LEFTOVERS = (
    "._*",
    ".DS_Store",
    ".AppleDouble/",
    "__MACOSX/",
    "[Tt]humbs.db",
    "ehthumbs.db",
    "[Dd]esktop.ini",
    "~$*",
    ".~lock.*#",
    "~WRL*.tmp",
    "*~",
    "*.swp",
    ".gitkeep",
    ".keep",
    "@eaDir/",
    "$RECYCLE.BIN/",
    "System Volume Information/",
    "lost+found/",
)
"""What systems and programs leave beside people's files. A pattern with `!` in `.docworkerignore` brings any of them
back."""
_MOST_BYTES = 1024 * 1024


class Ignore:
    """The patterns of a tree. Later ones win, and those that begin with `!` bring back, as in `.gitignore`."""

    def __init__(self, patterns: Collection[str] = (), *, hidden: bool = False, leftovers: bool = True) -> None:
        """With `hidden`, files and folders whose names begin with a dot are imported as well; without `leftovers`, what
        programs leave behind is.

        Raises InvalidArgumentError for what is no pattern.
        """
        self._hidden = hidden
        patterns = [composed(pattern) for pattern in patterns]
        try:
            self._spec = GitIgnoreSpec.from_lines(patterns)
            self._leftovers = GitIgnoreSpec.from_lines([*LEFTOVERS, *patterns]) if leftovers else self._spec
        except (GitIgnorePatternError, ValueError) as error:
            raise InvalidArgumentError(
                f"one of the patterns {list(patterns)!r:.200} cannot be used: {error}"
            ) from error

    @classmethod
    def of_tree(cls, root: Path, exclude: Collection[str] = (), *, hidden: bool = False) -> "Ignore":
        """The patterns of the file `.docworkerignore` in the root, and then these.

        Raises InvalidArgumentError for a file that cannot be read, or what is no pattern.
        """
        return cls([*_lines(root / IGNORE_FILE), *exclude], hidden=hidden)

    def why(self, path: FolderPath, *, is_folder: bool) -> str | None:
        """Why the file or folder at this path of composed names is left out; None where it is not."""
        if not self._hidden and path[-1].startswith("."):
            return "hidden: its name begins with a dot"
        name = "/".join(path) + ("/" if is_folder else "")
        if self._spec.match_file(name):
            return "a pattern leaves it out"
        if self._leftovers.match_file(name):
            return "left behind by a program: `!` and its name in .docworkerignore brings it back"
        return None


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InvalidArgumentError(f"{path} has more than {_MOST_BYTES} bytes: it is to hold a pattern a line")
        return content.decode().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error}; mend it, or move it away") from error


NOTHING = Ignore(hidden=True, leftovers=False)
