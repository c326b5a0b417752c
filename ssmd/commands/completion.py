"""`ssmd completion`: names of commands, options, feeds, schemas and environments at a press of the tab key."""

from __future__ import annotations

import click

from ssmd.options import examples

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_SSMD_COMPLETE"  # with which the script asks us


@click.command(
    epilog=examples(
        "source <(ssmd completion bash)                                 # this shell; in ~/.bashrc: every shell",
        "source <(ssmd completion zsh)                                  # after compinit, in ~/.zshrc",
        "ssmd completion fish > ~/.config/fish/completions/ssmd.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the script that makes a shell complete ssmd's command lines."""
    from click.shell_completion import ShellComplete, get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101  (of SHELLS)
    # Bash's own `source` also runs a bash to look at its version.
    click.echo(ShellComplete.source(made(ctx.find_root().command, {}, "ssmd", VARIABLE)))
