"""Where slabctl's `profile` puts its file: in the place of another one, which is kept until all is beside it, or into one
that cannot be replaced. Whatever ends the tool, nothing of its own stays behind."""
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess

import pytest

from conftest import SLABCTL, need
from slabctl_tools import NOBODY, compile_program, complains, slabctl, tells
from test_slabctl_profile import Pprof, Sampled, folder, program, sampled  # noqa: F401: fixtures
from tools.python.processes import plain_env, wait_until

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_built")]
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user, and mount")


def test_files_are_whole_or_not_there(sampled, tmp_path):
    file = tmp_path / "profile"
    file.write_text("as it was")
    link = tmp_path / "link"
    link.symlink_to("profile")
    assert "No such file" in complains(sampled.pid, "profile", tmp_path / "none" / "x")
    assert "No space left" in complains(sampled.pid, "profile", "/dev/full")
    assert "No space left" in complains(sampled.pid, "profile", "--legacy", "/dev/full")
    assert file.read_text() == "as it was"
    tells(sampled.pid, "profile", link)
    assert link.is_symlink() and Pprof(file.read_bytes()).samples
    old_mask = os.umask(0o027)
    try:
        tells(sampled.pid, "profile", tmp_path / "new")
    finally:
        os.umask(old_mask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "new", "profile"]
    for name in ("-", "/dev/stdout"):
        done = slabctl(sampled.pid, "profile", name, text=False, errors=None)
        assert done.returncode == 0 and Pprof(done.stdout).samples == Pprof(file.read_bytes()).samples
    tells(sampled.pid, "profile", "/dev/null")
    assert pathlib.Path("/dev/null").is_char_device()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_that_is_replaced_keeps_its_rights(sampled, tmp_path, mode):
    file = tmp_path / "profile"
    file.write_text("as it was")
    file.chmod(mode)
    if os.getuid() == 0:
        os.chown(file, 65534, 65533)
    before = file.stat()
    tells(sampled.pid, "profile", file)
    after = file.stat()
    assert Pprof(file.read_bytes()).samples and after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@AS_ROOT
def test_a_file_of_another_user_keeps_its_mode(program, place):
    """A folder may let users replace each other's files; who does so cannot give it back. His own group, which may not
    have been the file's, does not get to read it by that."""
    place.chmod(0o777)
    tool, _ = shutil.copy(SLABCTL, place), shutil.copy(program.parent / "libslabmalloc.so", place)
    copy, file = pathlib.Path(shutil.copy(program, place)), place / "profile"
    file.write_text("as it was")
    file.chmod(0o660)
    with Sampled(copy, **NOBODY) as child:
        tells(child.pid, "profile", file, tool=tool, **NOBODY)
    assert Pprof(file.read_bytes()).samples
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (NOBODY["user"], 0o600)


@pytest.mark.parametrize("names", [["link"], ["link", "second", "third"]])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_to_a_file_that_is_not_there_yet(sampled, tmp_path, names, absolute):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, target in zip(names, [*names[1:], "folder/profile"]):
        (tmp_path / name).symlink_to(tmp_path / target if absolute else target)
    tells(sampled.pid, "profile", tmp_path / "link")
    assert all((tmp_path / name).is_symlink() for name in names)
    assert Pprof((folder / "profile").read_bytes()).samples and os.listdir(folder) == ["profile"]


def test_links_that_lead_nowhere(sampled, tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("none/profile")
    assert "Too many levels" in complains(sampled.pid, "profile", tmp_path / "circle")
    assert "No such file" in complains(sampled.pid, "profile", tmp_path / "nowhere")
    assert sorted(os.listdir(tmp_path)) == ["circle", "nowhere"]


# -- in place ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def owned(program, place):  # noqa: F811
    """(a process, its owner's tool, a folder that he reaches): he is not root, who may do everything."""
    tool = shutil.copy(SLABCTL, place)
    shutil.copy(program.parent / "libslabmalloc.so", place)
    as_owner = {"tool": tool, **(NOBODY if os.getuid() == 0 else {})}
    with Sampled(pathlib.Path(shutil.copy(program, place)), **(NOBODY if os.getuid() == 0 else {})) as child:
        yield child, as_owner, place


def old_file(folder, name="profile"):  # noqa: F811
    """Longer than the new one."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("as it was" * 100000)
    (folder / name).chmod(0o666)
    return folder / name


def is_written_in_place(file, before):
    return Pprof(file.read_bytes()).samples and file.stat().st_ino == before.st_ino


@pytest.mark.parametrize("mode", [0o555, pytest.param(0o1777, marks=AS_ROOT)])
def test_a_folder_in_which_nothing_may_be_made_or_replaced(owned, mode):
    """In the second one that goes for what is another user's."""
    child, as_owner, place = owned
    file = old_file(place / "folder")
    file.parent.chmod(mode)
    before = file.stat()
    try:
        tells(child.pid, "profile", file, **as_owner)
        assert is_written_in_place(file, before) and os.listdir(file.parent) == ["profile"]
        if mode == 0o555:
            assert complains(child.pid, "profile", file.parent / "new", **as_owner).endswith("Permission denied")
    finally:
        file.parent.chmod(0o755)


def test_a_file_that_may_not_be_written_either(owned):
    child, as_owner, place = owned
    file = old_file(place / "folder")
    file.chmod(0o444)
    file.parent.chmod(0o555)
    try:
        assert complains(child.pid, "profile", file, **as_owner) == f"{file}: Permission denied"
        assert file.read_text().startswith("as it was")
    finally:
        file.parent.chmod(0o755)


@AS_ROOT
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_mounted(sampled, tmp_path, read_only):  # noqa: F811
    unshare, = need("unshare")
    if subprocess.run([unshare, "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here")
    file, at = old_file(tmp_path / "folder"), old_file(tmp_path / "other", "at")
    before = file.stat()
    script = (f"{f'mount --bind {at.parent} {at.parent} && mount -o remount,bind,ro {at.parent} && ' * read_only}"
              f"mount --bind {file} {at} && exec {SLABCTL} {sampled.pid} profile {at}")
    done = slabctl("--mount", "sh", "-c", script, tool=unshare)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert is_written_in_place(file, before)
    assert (os.listdir(file.parent), os.listdir(at.parent)) == (["profile"], ["at"])


def test_a_file_with_other_names(sampled, tmp_path):  # noqa: F811
    file = old_file(tmp_path)
    (tmp_path / "other").hardlink_to(file)
    before = file.stat()
    tells(sampled.pid, "profile", file)
    assert is_written_in_place(tmp_path / "other", before)
    assert sorted(os.listdir(tmp_path)) == ["other", "profile"]


@pytest.mark.parametrize("old", [False, True])
def test_a_name_as_long_as_names_can_be(sampled, tmp_path, old):  # noqa: F811
    name = "x" * os.pathconf(tmp_path, "PC_NAME_MAX")
    if old:
        old_file(tmp_path, name)
    tells(sampled.pid, "profile", tmp_path / name)
    assert Pprof((tmp_path / name).read_bytes()).samples and os.listdir(tmp_path) == [name]


# -- ended ------------------------------------------------------------------------------------------------------------

def limited(bytes_):
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))}


@pytest.mark.parametrize("words", [[], ["--legacy"]])
def test_a_limit_to_the_size_of_files_is_told(sampled, tmp_path, words):
    """Signal 25 is the system's way to say it; what the tool itself says is in a file, too."""
    file = tmp_path / "profile"
    file.write_text("as it was")
    assert complains(sampled.pid, "profile", file, *words, **limited(512)) == f"{file}: File too large"
    assert "is there a limit to the size of files?" in complains(sampled.pid, "profile", file, *words, **limited(0))
    assert file.read_text() == "as it was" and os.listdir(tmp_path) == ["profile"]


@pytest.mark.parametrize("old", [None, "as it was"])
@pytest.mark.parametrize("who, number", [("tool", signal.SIGTERM), ("tool", signal.SIGHUP), ("tool", signal.SIGINT),
                                         ("tool", signal.SIGKILL), ("child", signal.SIGTERM), ("child", signal.SIGKILL),
                                         ("both", signal.SIGINT)])
def test_a_killed_tool_leaves_no_file_behind(sampled, folder, tmp_path, who, number, old):
    shim = compile_program("no_rename.c", folder, "-shared", "-fPIC", name="no_rename.so")
    file = tmp_path / "profile"
    if old:
        file.write_text(old)
    tool = subprocess.Popen([SLABCTL, str(sampled.pid), "profile", file], env=plain_env(LD_PRELOAD=str(shim)),
                            stderr=subprocess.PIPE, text=True, start_new_session=True,
                            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None)
    wait_until(lambda: len(os.listdir(tmp_path)) > bool(old), "the new file is there")
    child, = pathlib.Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
    if who == "both":
        os.killpg(tool.pid, number)
    else:
        os.kill(tool.pid if who == "tool" else int(child), number)
    said = tool.communicate()[1]
    if who == "child":
        assert re.fullmatch(rf"slabctl: {sampled.pid}: slabctl's child .* ended by signal {int(number)} .*\n", said)
    assert tool.returncode == (1 if who == "child" else -number)
    wait_until(lambda: os.listdir(tmp_path) == ["profile"] * bool(old), "only what was there is there")
    assert not old or file.read_text() == old
