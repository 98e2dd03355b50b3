"""How options look in `--help`, and how else they may be written: the one place that says so, for every command.

An option stands in the panel of its group of settings (`OptionGroup.panel`), or in the one that is named here. One name
is in the same panel in all commands.
"""

from typing import Any, Final

from typer.core import TyperOption

from harness.cli.completion import complete_names
from harness.cli.examples import examples_of

PANELS: Final = ("Model", "Data", "Training", "Judge", "Engine", "Output", "Advanced")
MODEL, DATA, TRAINING, JUDGE, ENGINE, OUTPUT, ADVANCED = PANELS

_NAMES: Final = {
    MODEL: "protocol baseline_model model_base vision lora",
    DATA: "limit seed seeds data train_data partial_data images samples rows part rule source split references every "
    "kind",
    JUDGE: "ledger official_prompts judge_repeats judge_calibration human_labels",
    ENGINE: "full_answers fresh gpus thinking workers ray slurm",
    OUTPUT: "out as_json dry_run yes output format form html pictures source_url hub_task junit comment push public "
    "report_to embed_images copy_images max_failed verbose quiet",
    ADVANCED: "config_file include_path strict trust_remote_code serve_options serve_patience serve_keep plain_trl "
    "mode share features kept_bytes compile attn_implementation load_in_8bit bnb_4bit_compute_dtype "
    "bnb_4bit_quant_type bnb_4bit_use_double_quant parallelize max_memory_per_gpu max_cpu_memory "
    "offload_folder device_map max_images min_pixels max_pixels interleave image_string image_token_id "
    "repetition_penalty thinking_tokens model_version judge_known_as judge_serve_set judge_timeout "
    "judge_attempts judge_patience judge_longest_wait judge_redirects_to judge_requests_per_minute "
    "judge_tokens_per_minute judge_retry_unread judge_detail judge_image_side judge_seed judge_structured "
    "judge_reasoning_effort settle attempts show_completion install_completion",
}
_PANEL_OF: Final = {name: panel for panel, names in _NAMES.items() for name in names.split()}

ALIASES: Final = {
    "tasks": ("-t",),
    "limit": ("-L",),
    "batch_size": ("-b",),
    "out": ("-o", "--output_path"),
    "model": ("-M",),
    "model_base": ("--base",),
    "model_key_env": ("--model-key",),
    "judge_key_env": ("--judge-key",),
}
"""Parameter -> other ways to write its option: lm-eval's, and shorter ones."""

ALIASES_OF: Final = {
    "parity": {"limit": ("--samples",)},
    "povid inject": {"limit": ("--rows",)},
    "vlfeedback build": {"limit": ("--rows",)},
}
"""Command -> the same, in this command alone."""


def arrange(command: Any, words: str = "") -> None:
    """Put the options of a command (its `words`), and of those below it, into panels, and examples under its help; let
    options be written with underscores, too."""
    for name, inner in getattr(command, "commands", {}).items():
        arrange(inner, f"{words} {name}".strip())
    if words and (lines := examples_of(words, group=hasattr(command, "commands"))):
        command.epilog = _escape("Examples:\n" + "\n".join(f"  {line}" for line in lines))
    command.context_settings.setdefault("help_option_names", ["--help", "-h"])
    for param in command.params:
        complete_names(param, words)
    options = [param for param in command.params if isinstance(param, TyperOption)]
    for option in options:
        _arrange_option(option)
        more = ALIASES_OF.get(words, {}).get(option.name, ())
        _accept_aliases(option, more, taken={each for other in options for each in other.opts})
    options.sort(key=_place_of)
    command.params[:] = [*(param for param in command.params if not isinstance(param, TyperOption)), *options]
    _arrange_help_option(command)


def _place_of(option: TyperOption) -> int:
    panel = option.rich_help_panel
    return -1 if panel is None else PANELS.index(panel) if panel in PANELS else PANELS.index(TRAINING)


def _arrange_option(option: TyperOption) -> None:
    option.rich_help_panel = _PANEL_OF.get(option.name, option.rich_help_panel)
    if option.metavar is not None:
        return
    if option.is_bool_flag:
        option.metavar = ""  # typer writes <bool>, of what takes no value
    elif option.type_descriptor.is_list:
        option.metavar = f"<{option.bare_type().removeprefix('list[').removesuffix(']')}>"


def _accept_aliases(option: TyperOption, own: tuple[str, ...], taken: set[str]) -> None:
    """Have the parser take an option's other spellings, its command's `own` too, which `--help` does not list."""
    add = option.add_to_parser

    def add_all(parser: Any, context: Any) -> None:
        shown, secondary = option.opts, option.secondary_opts
        more = [each for each in (*ALIASES.get(option.name, ()), *own) if each not in taken]
        option.opts = [*shown, *more, *(_underscored([*shown, *more]))]
        option.secondary_opts = [*secondary, *_underscored(secondary)]
        try:
            add(parser, context)
        finally:
            option.opts, option.secondary_opts = shown, secondary

    option.add_to_parser = add_all  # type: ignore[method-assign, assignment]


def _underscored(names: list[str]) -> list[str]:
    both = {f"--{name[2:].replace(*pair)}" for name in names if name[:2] == "--" for pair in (("-", "_"), ("_", "-"))}
    return sorted(both - {*names})


def _arrange_help_option(command: Any) -> None:
    find = command.get_help_option

    def found(context: Any) -> Any:
        if (option := find(context)) is not None:
            option.metavar = ""
        return option

    command.get_help_option = found


def _escape(text: str) -> str:
    """A text whose brackets are no markup of rich's, which is not imported where there are none."""
    if "[" not in text:
        return text
    from rich.markup import escape

    return escape(text)
