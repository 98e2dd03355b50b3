"""The losses against closed forms on hand-made numbers, and against TRL's own code where TRL has them."""

import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from support.errors import RecipeError
from trainers.config.losses import LOSSES, LossSpec, find_loss, losses_taking
from trainers.losses import functions

POLICY_CHOSEN, POLICY_REJECTED = tensor([-12.0, -30.0, -7.5]), tensor([-15.0, -21.0, -7.0])
REFERENCE_CHOSEN, REFERENCE_REJECTED = tensor([-13.0, -28.0, -8.0]), tensor([-14.0, -24.0, -5.0])
CHOSEN, REJECTED = POLICY_CHOSEN - REFERENCE_CHOSEN, POLICY_REJECTED - REFERENCE_REJECTED  # 1, -2, .5 and -1, 3, -2
CHOSEN_TOKENS, REJECTED_TOKENS = tensor([4, 6, 3]), tensor([5, 2, 3])


def softplus(x: float) -> float:
    """-log sigmoid(-x)."""
    return math.log1p(math.exp(x))


def test_dpo_is_ln_2_where_policy_and_reference_agree() -> None:
    assert functions.dpo(chosen=torch.zeros(2), rejected=torch.zeros(2), beta=0.3).tolist() == pytest.approx(
        [math.log(2)] * 2
    )


def test_dpo_on_hand_made_numbers() -> None:
    found = functions.dpo(chosen=CHOSEN, rejected=REJECTED, beta=0.1)
    assert found.tolist() == pytest.approx([softplus(-0.2), softplus(0.5), softplus(-0.25)])


def test_cdpo_mixes_in_the_swapped_pair_and_robust_takes_it_out() -> None:
    one: dict[str, Any] = {"chosen": tensor([2.0]), "rejected": tensor([-1.0]), "beta": 0.5}
    mixed, taken_out = functions.cdpo(**one, smoothing=0.1), functions.robust(**one, smoothing=0.1)
    assert mixed.item() == pytest.approx(0.9 * softplus(-1.5) + 0.1 * softplus(1.5))
    assert taken_out.item() == pytest.approx((0.9 * softplus(-1.5) - 0.1 * softplus(1.5)) / 0.8)


def test_robust_is_right_on_average_over_swapped_labels() -> None:
    """Its meaning: with a share e of labels swapped, its mean is the loss of the clean labels."""
    right = functions.robust(chosen=CHOSEN, rejected=REJECTED, beta=0.4, smoothing=0.2)
    swapped = functions.robust(chosen=REJECTED, rejected=CHOSEN, beta=0.4, smoothing=0.2)
    torch.testing.assert_close(0.8 * right + 0.2 * swapped, functions.dpo(chosen=CHOSEN, rejected=REJECTED, beta=0.4))


def test_hinge_is_flat_once_the_margin_is_one() -> None:
    found = functions.hinge(chosen=tensor([30.0, 5.0, -5.0]), rejected=torch.zeros(3), beta=0.1)
    assert found.tolist() == pytest.approx([0.0, 0.5, 1.5])


def test_ipo_is_nothing_at_its_margin_a_token() -> None:
    tokens = tensor([4.0])
    at = {"chosen_tokens": tokens, "rejected_tokens": tokens, "beta": 0.25}
    assert functions.ipo(chosen=tensor([8.0]), rejected=tensor([0.0]), **at).item() == 0.0  # type: ignore[arg-type]
    assert functions.ipo(chosen=tensor([12.0]), rejected=tensor([0.0]), **at).item() == 1.0  # type: ignore[arg-type]


def test_bco_moves_each_answer_on_its_own_around_delta() -> None:
    found = functions.bco(chosen=tensor([3.0]), rejected=tensor([1.0]), beta=0.5, delta=0.25)
    assert found.item() == pytest.approx(softplus(-(1.5 - 0.25)) + softplus(0.5 - 0.25))


def test_nll_is_a_mean_over_tokens_not_over_answers() -> None:
    log_probs, mask = tensor([[-1.0, -2.0, -9.0], [-3.0, -9.0, -9.0]]), tensor([[1, 1, 0], [1, 0, 0]])
    assert functions.nll(log_probs, mask).item() == 2.0


def test_mpo_weighs_its_three_parts() -> None:
    found = functions.mpo(chosen=tensor([2.0]), rejected=tensor([-1.0]), likelihood=tensor(1.5), beta=0.5)
    assert found.item() == pytest.approx(0.8 * softplus(-1.5) + 0.2 * (softplus(-1.0) + softplus(-0.5)) + 1.5)


def test_mdpo_adds_the_image_pair_and_the_anchor() -> None:
    found = functions.mdpo(
        chosen=tensor([2.0]), rejected=tensor([-1.0]), chosen_elsewhere=tensor([4.0]), beta=0.5, anchor=0.25
    )
    assert found.item() == pytest.approx(softplus(-1.5) + softplus(1.0) + softplus(-(1.0 - 0.25)))


def test_changed_tokens_are_those_outside_common_runs_of_three() -> None:
    chosen, rejected = [1, 2, 3, 4, 9, 9, 7, 5, 6], [1, 2, 3, 4, 8, 7, 5, 6]
    assert functions.changed_tokens(chosen, rejected) == (
        [False] * 4 + [True] * 2 + [False] * 3,
        [False] * 4 + [True] + [False] * 3,
    )
    assert functions.changed_tokens([1, 2], [1, 2]) == ([True] * 2, [True] * 2)  # too short a run to tell


def test_ddpo_weighs_changed_tokens_and_divides_by_the_weights() -> None:
    log_probs, mask = tensor([[-1.0, -2.0, -4.0, -50.0]]), tensor([[1, 1, 1, 0]])
    changed = tensor([[False, True, False, True]])
    assert functions.segment_log_probs(log_probs, mask, changed, gamma=5.0).item() == pytest.approx(
        -(1 + 5 * 2 + 4) / 7
    )
    assert functions.segment_log_probs(log_probs, mask, changed, gamma=1.0).item() == pytest.approx(-7 / 3)


# POVID: two positions, three tokens. The policy sees token 1, then 2 through the noise; its reference token 0, then 2.
def logits(*rows: list[float]) -> Tensor:
    return tensor([rows]).log()


CLEAN = logits([0.5, 0.25, 0.25], [0.1, 0.1, 0.8])
NOISY = logits([0.2, 0.6, 0.2], [0.3, 0.3, 0.4])
REFERENCE_CLEAN = logits([0.4, 0.4, 0.2], [0.2, 0.2, 0.6])
REFERENCE_NOISY = logits([0.7, 0.2, 0.1], [0.25, 0.25, 0.5])
BOTH = torch.ones(1, 2)


def test_povid_sees_the_likeliest_tokens_through_the_noise() -> None:
    assert functions.seen_through_noise(NOISY).tolist() == [[1, 2]]


def test_povid_paper_scores_the_policys_own_answer_beside_the_noised_image() -> None:
    found = functions.povid_paper_ratio(noisy=NOISY, reference_noisy=REFERENCE_NOISY, mask=BOTH)
    assert found.item() == pytest.approx(math.log(0.6 * 0.4) - math.log(0.2 * 0.5))


def test_povid_code_scores_beside_the_clean_image_and_the_reference_has_an_answer_of_its_own() -> None:
    found = functions.povid_code_ratio(
        clean=CLEAN, noisy=NOISY, reference_clean=REFERENCE_CLEAN, reference_noisy=REFERENCE_NOISY, mask=BOTH
    )
    assert found.item() == pytest.approx(math.log(0.25 * 0.8) - math.log(0.4 * 0.6))


def test_positions_past_the_answer_count_for_nothing() -> None:
    found = functions.povid_paper_ratio(noisy=NOISY, reference_noisy=REFERENCE_NOISY, mask=tensor([[1, 0]]))
    assert found.item() == pytest.approx(math.log(0.6 / 0.2))


def test_povid_paper_has_one_sigmoid_and_three_coefficients() -> None:
    found = functions.povid_paper(
        chosen=tensor([2.0]), rejected=tensor([-1.0]), own=tensor([3.0]), alpha=0.5, beta_text=0.25, beta_image=0.1
    )
    assert found.item() == pytest.approx(softplus(-(1.0 - (-0.25 + 0.3))))


def test_povid_code_is_the_mean_of_two_sigmoids_and_has_one_coefficient() -> None:
    found = functions.povid_code(chosen=tensor([2.0]), rejected=tensor([-1.0]), own=tensor([3.0]), beta=0.1)
    assert found.item() == pytest.approx(0.5 * softplus(-0.3) + 0.5 * softplus(0.1))


def test_no_gradient_of_povid_goes_through_the_choice_of_tokens() -> None:
    noisy = NOISY.clone().requires_grad_()
    clean = CLEAN.clone().requires_grad_()
    functions.povid_code_ratio(
        clean=clean, noisy=noisy, reference_clean=REFERENCE_CLEAN, reference_noisy=REFERENCE_NOISY, mask=BOTH
    ).sum().backward()
    assert clean.grad is not None
    assert clean.grad.abs().sum() > 0
    assert noisy.grad is None


# TRL's own arithmetic on the same numbers


def spread(sums: Tensor, tokens: Tensor, width: int) -> Tensor:
    """Token log-probabilities [answers, width] that add up to `sums`, none two alike."""
    rows = torch.zeros(len(sums), width)
    for row, (total, count) in enumerate(zip(sums.tolist(), tokens.tolist(), strict=True)):
        shares = torch.arange(1, count + 1).float()
        rows[row, :count] = total * shares / shares.sum()
    return rows


def trl_loss(**arguments: Any) -> float:
    """TRL's `_compute_loss` of the hand-made numbers."""
    from accelerate import Accelerator
    from trl import DPOTrainer
    from trl.trainer.utils import FusedCausalLMOutput

    tokens, width = torch.cat([CHOSEN_TOKENS, REJECTED_TOKENS]), 6
    completion = torch.cat([torch.zeros(6, 1), (torch.arange(width) < tokens[:, None]).float()], dim=1).long()
    token_log_probs = spread(torch.cat([POLICY_CHOSEN, POLICY_REJECTED]), tokens, width)
    nothing = torch.zeros(6, width)
    output = FusedCausalLMOutput(
        log_probs=token_log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(cpu=True),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        loss_types=arguments["loss_type"],
        loss_weights=arguments["loss_weights"],
        beta=arguments["beta"],
        label_smoothing=arguments["label_smoothing"],
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.ones(6, width + 1, dtype=torch.long),
        "attention_mask": torch.ones(6, width + 1, dtype=torch.long),
        "completion_mask": completion,
        "ref_chosen_logps": REFERENCE_CHOSEN,
        "ref_rejected_logps": REFERENCE_REJECTED,
    }
    return float(DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, False))


LIKELIHOOD = functions.nll(spread(POLICY_CHOSEN, CHOSEN_TOKENS, 6), (torch.arange(6) < CHOSEN_TOKENS[:, None]).float())
PAIR: dict[str, Any] = {"chosen": CHOSEN, "rejected": REJECTED, "beta": 0.3}


@pytest.mark.parametrize(
    ("name", "settings", "ours"),
    (
        ("dpo", {}, lambda: functions.dpo(**PAIR)),
        ("cdpo", {"smoothing": 0.15}, lambda: functions.cdpo(**PAIR, smoothing=0.15)),
        ("robust", {"smoothing": 0.15}, lambda: functions.robust(**PAIR, smoothing=0.15)),
        ("ipo", {}, lambda: functions.ipo(**PAIR, chosen_tokens=CHOSEN_TOKENS, rejected_tokens=REJECTED_TOKENS)),
        ("hinge", {}, lambda: functions.hinge(**PAIR)),
        ("mpo", {}, lambda: functions.mpo(**PAIR, likelihood=LIKELIHOOD)),
        ("dpo", {"sft_weight": 0.7}, lambda: functions.dpo(**PAIR) + 0.7 * LIKELIHOOD),
        ("mpo", {"sft_weight": 0.7}, lambda: functions.mpo(**PAIR, likelihood=LIKELIHOOD) + 0.7 * LIKELIHOOD),
    ),
)
def test_trl_computes_the_same(name: str, settings: dict[str, float], ours: Any) -> None:
    assert trl_loss(**find_loss(name).trl_arguments(beta=0.3, **settings)) == pytest.approx(
        ours().mean().item(), rel=1e-6
    )


def test_trls_configuration_takes_the_arguments(tmp_path: Any) -> None:
    from trl import DPOConfig

    for name in LOSSES:
        DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **find_loss(name).trl_arguments(beta=0.1))


def test_an_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no loss of that name .*did you mean 'hinge'.*known: dpo, cdpo"):
        find_loss("hing")


@pytest.mark.parametrize("spec", LOSSES.values(), ids=list(LOSSES))
def test_the_documentation_has_a_row_for_each_loss(spec: LossSpec) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    keys = ", ".join(f"`{name}`" for name in spec.settings)
    read, packed = ("2 answers", "yes") if spec.packed else ("3 answers, 2 pictures", "no")
    assert f"| `{spec.name}` | {spec.summary} | {keys} | {read} | {packed} |" in page


def test_settings_say_which_losses_take_them() -> None:
    assert losses_taking("smoothing") == "the losses cdpo and robust"
    assert losses_taking("noise.alpha") == "the loss povid-paper"
