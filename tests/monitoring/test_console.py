"""Progress on the console."""

import time

from mbrl.monitoring import Console


class Terminal:
    """A standard error that claims to be a terminal."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


def row(update, value=1.0):
    return {"update": update, "env_steps": 10, "wall_s": 0.25, "return_mean": value}


def test_plain_lines_when_not_a_terminal(capsys):
    console = Console(3)
    for update in (1, 2, 3):
        console.write(row(update, 1 / 3))
    console.close()
    out, err = capsys.readouterr()
    assert out == ""
    # The first and the last, and one every few seconds between.
    assert err == (
        "update 1/3 return_mean=0.3333 wall_s=0.2\nupdate 3/3 return_mean=0.3333 wall_s=0.2\n"
    )


def test_a_line_every_few_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(100)
    for update in range(1, 13):
        now[0] += 1.0
        console.write(row(update))
    shown = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["1/100", "7/100"]


def test_columns_that_are_missing_are_left_out(capsys):
    Console(1, shown=("return_mean", "loss")).write({"update": 1, "wall_s": 0.0, "loss": 2.0})
    assert "loss=2" in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    console = Console(4, done=2)
    console.write(row(3))
    console.write(row(4))
    console.close()
    assert "4/4" in terminal.text
    assert "return_mean=1" in terminal.text
    assert terminal.text.endswith("\n")


def test_an_update_that_takes_long_says_what_it_is_at(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(4, done=1)
    for now in (1.0, 31.0, 45.0, 62.0):
        console.note(f"step {now:.0f}")
    console.write(row(2))
    now = 80.0
    console.note("too early again")
    now = 93.0
    console.note("step 1")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if ": " in line] == [
        "update 2/4: step 31",
        "update 2/4: step 62",
        "update 3/4: step 1",
    ]


def test_a_bar_says_what_an_update_is_at(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    console = Console(4)
    console.note("epoch 3 of at most 60")
    console.close()
    assert "epoch 3 of at most 60" in terminal.text
