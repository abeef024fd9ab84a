"""Rollouts in which the teacher writes: SeqKD's kept responses, MiniLLM's mixture."""

from __future__ import annotations

import pytest
import torch

from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.rollouts import Generation, MiniLLMSamples, TeacherGenerated
from kd_lightning.core.rollouts import teacher_generated as module
from kd_lightning.core.schedules import Progress
from kd_lightning.losses.minillm import MiniLLMLoss, minillm_loss
from tests.core.test_rollouts import PROMPTS, greedy_by_hand, step, written
from tests.core.text import EOS, ROWS, gpt, logits_of, roles, text_batch


@pytest.fixture
def asked(monkeypatch):
    """How many prompts the teacher has been asked to continue."""
    counts = []
    original = module.respond

    def respond(role, prompts, *args):
        counts.append(len(prompts.lengths))
        return original(role, prompts, *args)

    monkeypatch.setattr(module, "respond", respond)
    return counts


def part(rows):
    """Some of the rows of a batch in training."""
    return {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in step().items()}


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_teacher_writes_once_for_every_sample(asked, tmp_path, on_disk):
    made = roles()
    how = Generation(max_new_tokens=9, temperature=0)
    folder = str(tmp_path / "kept") if on_disk else None
    rollout = TeacherGenerated(how, folder)
    expected = [greedy_by_hand(made.by_name["teacher"].net, prompt, 9) for prompt in PROMPTS]
    assert written(rollout(part([0, 2]), made)) == [expected[0], expected[2]]
    assert written(rollout(part([0, 1, 2]), made)) == expected
    again = rollout({**step(), "view": 5, "step": 9}, made)
    assert written(again) == expected
    assert asked == [2, 1]
    fresh = rollout.__class__(how)(step(), made)  # what was kept makes the same batch as what was written
    assert all(torch.equal(again[k], fresh[k]) for k in ("input_ids", "target", "loss_mask", "attention_mask"))
    assert "behaviour" not in again


def test_what_is_on_disk_serves_other_runs_of_the_same_teacher_only(asked, tmp_path):
    how, folder = Generation(max_new_tokens=9, temperature=0), str(tmp_path)
    TeacherGenerated(how, folder)(step(), roles())
    TeacherGenerated(how, folder)(step(), roles(student=gpt(7)))
    assert asked == [3], "another run with another student reads"
    other = TeacherGenerated(how, folder)(step(), roles(teacher=gpt(8)))
    assert asked == [3, 3], "another teacher writes"
    assert written(other) == [greedy_by_hand(gpt(8), prompt, 9) for prompt in PROMPTS]
    TeacherGenerated(Generation(max_new_tokens=5, temperature=0), folder)(step(), roles())
    TeacherGenerated(Generation(max_new_tokens=9, temperature=0, eos_token_id=4), folder)(step(), roles())
    assert asked == [3] * 4, "and so do other settings"
    prompts = {**text_batch([([2, 2, 2, 4], 3), *ROWS[1:]]), "step": 0, "progress": Progress()}
    TeacherGenerated(how, folder)(prompts, roles())
    assert asked == [3] * 4 + [1], "and another prompt under the same index"


def test_drawn_responses_differ_from_sample_to_sample(tmp_path):
    same = {**text_batch([([2, 3, 4], 3)] * 6), "step": 0, "progress": Progress()}
    rollout = TeacherGenerated(Generation(max_new_tokens=8), str(tmp_path))
    rows = written(rollout(same, roles()))
    assert len({tuple(row) for row in rows}) > 1
    assert written(rollout(same, roles())) == rows


def test_beam_search_finds_what_greedy_search_misses():
    made = roles(teacher=gpt(2, eos=None, scale=4.0))
    net = made.by_name["teacher"].net

    def score(row, prompt):
        ids = torch.tensor(row)
        picked = logits_of(net, ids).log_softmax(-1)[:-1].gather(1, ids[1:, None])
        return float(picked[len(prompt) - 1 :].sum())

    rows = {}
    for beams in (1, 6):
        batch = TeacherGenerated(Generation(max_new_tokens=6, temperature=0, num_beams=beams))(step(), made)
        rows[beams] = [score(row, prompt) for row, prompt in zip(written(batch), PROMPTS, strict=True)]
    assert all(beam >= greedy - 1e-5 for greedy, beam in zip(rows[1], rows[6], strict=True))
    assert sum(rows[6]) > sum(rows[1]) + 0.01


def test_a_role_that_learns_is_not_kept():
    learning = Roles([Role("teacher", gpt(), roles().by_name["student"].call)])
    with pytest.raises(ValueError, match="but it learns: use OnPolicy"):
        TeacherGenerated(Generation())(step(), learning)


# -- MiniLLM ---------------------------------------------------------------------------------------------------------


def mixture(made, ids, mix):
    """Log-probabilities of every next token, (T, V), one row without padding and without a cache."""
    student, teacher = (logits_of(made.by_name[name].net, ids).softmax(-1) for name in ("student", "teacher"))
    return (mix * teacher + (1 - mix) * student).log()


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_behaviour_is_the_log_probability_under_the_mixture(mix):
    made = roles(teacher=gpt(1, vocab=16))  # the teacher's embedding is padded
    batch = MiniLLMSamples(Generation(max_new_tokens=9), mix, text=False)(step(), made)
    for row, (ids, prompt) in enumerate(zip(written(batch), PROMPTS, strict=True)):
        tokens = torch.tensor(ids)
        teacher = made.by_name["teacher"].net
        p_teacher = logits_of(teacher, tokens)[:, :13].softmax(-1)
        p_student = logits_of(made.by_name["student"].net, tokens).softmax(-1)
        log_probs = (mix * p_teacher + (1 - mix) * p_student).log()
        expected = torch.zeros(batch["input_ids"].shape[1])
        for t in range(len(prompt) - 1, len(ids) - 1):
            expected[t] = log_probs[t, ids[t + 1]]
        torch.testing.assert_close(batch["behaviour"][row], expected, rtol=1e-3, atol=1e-4)
        assert batch["loss_mask"][row].tolist() == (expected != 0).tolist()


def test_tokens_come_from_the_mixture():
    made = roles(student=gpt(4, scale=4.0), teacher=gpt(5, scale=4.0))
    many = {**text_batch([([2, 5, 3], 3)] * 4000), "step": 0, "progress": Progress()}
    batch = MiniLLMSamples(Generation(max_new_tokens=2), 0.5, text=False)(many, made)
    first = batch["input_ids"][:, 3]
    expected = mixture(made, torch.tensor([2, 5, 3]), 0.5)[-1].exp()
    assert (torch.bincount(first, minlength=13) / 4000 - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5
    token = int(first[first != EOS].mode().values)  # the second token, after the commonest first one
    second = batch["input_ids"][first == token, 4]
    expected = mixture(made, torch.tensor([2, 5, 3, token]), 0.5)[-1].exp()
    error = torch.bincount(second, minlength=13) / len(second) - expected
    assert error.abs().max() < 4 * (0.25 / len(second)) ** 0.5


def test_the_loss_takes_the_behaviour_as_its_own_mixture():
    made = roles()
    for role in made.by_name.values():
        role.net.eval()
    batch = MiniLLMSamples(Generation(max_new_tokens=9), 0.2, text=False)(step(), made)
    signals = made(batch, ["student", "teacher"])
    given = [signals[name]["logits"] for name in ("student", "teacher")]
    loss = MiniLLMLoss(teacher_mix=0.2)
    ours = loss(*given, batch["target"], batch["loss_mask"], batch["behaviour"])
    torch.testing.assert_close(ours, loss(*given, batch["target"], batch["loss_mask"]), rtol=1e-4, atol=1e-5)
    other = minillm_loss(*given, batch["target"], batch["loss_mask"], teacher_mix=0.9)
    assert abs(float(ours.detach() - other.detach())) > 1e-3


@pytest.mark.parametrize("left", [False, True])
def test_the_text_of_the_batch_stands_below_its_samples(left):
    made = roles()
    batch = step(left=left)
    new = MiniLLMSamples(Generation(max_new_tokens=9))(batch, made)
    samples = MiniLLMSamples(Generation(max_new_tokens=9), text=False)(batch, made)
    width = samples["input_ids"].shape[1]
    assert width > batch["input_ids"].shape[1], "the case must pad the text"
    assert written(new) == written(samples) + written(batch)
    assert torch.equal(new["target"][:3], samples["target"])
    assert (new["target"][3:] == -100).all()
    assert (new["text_target"][:3] == -100).all()
    assert torch.equal(new["text_target"][3:, : batch["target"].shape[1]], batch["target"])
    assert torch.equal(new["loss_mask"], new["target"] != -100)
    assert torch.equal(new["behaviour"][:3], samples["behaviour"])
    assert new["index"].tolist() == batch["index"].tolist() * 2
    shapes = {key: tuple(value.shape) for key, value in new.items() if isinstance(value, torch.Tensor)}
    tokens = ("input_ids", "attention_mask", "target", "loss_mask", "text_target", "behaviour")
    assert shapes == {**dict.fromkeys(tokens, (6, width)), "prompt_length": (6,), "index": (6,)}
