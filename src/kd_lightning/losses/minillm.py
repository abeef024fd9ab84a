"""MiniLLM: reverse KL of whole sequences by policy gradient (Gu et al., 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.tokens import check_fraction, log_mixture, token_kl, token_log_probs, token_mean


@torch.no_grad()
def minillm_advantage(rewards: Tensor, mask: Tensor, *, gamma: float = 0.95, whiten: bool = True) -> Tensor:
    r"""Length-normalised discounted sum of the rewards from each token on.

    .. math:: A_t = \frac{\sum_{i \ge t} \gamma^{i-t} r_i}{\#\{i \ge t \text{ valid}\}}

    The division keeps short answers from being preferred.

    References:
        [0] Gu, Dong, Wei, Huang. MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024.
        [1] microsoft/LMOps, minillm/minillm/losses.py (_get_advantages_and_returns)

    Differs from [1]: rewards and results are 0 at masked positions; whitening takes the moments of valid positions
    only.

    Args:
        rewards: Reward of each sampled token, (B, T).
        mask: Valid positions, (B, T).
        gamma: Discount per token.
        whiten: Subtract the mean of the batch and divide by its standard deviation.

    Returns:
        Advantages, (B, T), without gradient.

    Example:
        >>> import torch
        >>> minillm_advantage(torch.tensor([[1.0, 3.0]]), torch.tensor([[1, 1]]), gamma=1.0, whiten=False)
        tensor([[2., 3.]])
    """
    mask = mask.to(torch.bool)
    rewards = torch.where(mask, rewards, rewards.new_zeros(()))
    sums = torch.empty_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        sums[:, t] = running
    remaining = mask.flip(1).cumsum(1).flip(1).clamp(min=1)
    advantage = torch.where(mask, sums / remaining, sums.new_zeros(()))
    if whiten:
        mean = token_mean(advantage, mask)
        variance = token_mean((advantage - mean) ** 2, mask)
        advantage = torch.where(mask, (advantage - mean) * torch.rsqrt(variance + 1e-8), sums.new_zeros(()))
    return advantage


@full_precision
def minillm_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    behaviour: Tensor | None = None,
    *,
    gamma: float = 0.95,
    teacher_mix: float = 0.2,
    clip_ratio: float = 0.2,
    reward_scaling: float = 0.5,
    clip_reward: float = 100.0,
    whiten: bool = True,
    single_step: bool = True,
) -> Tensor:
    r"""Policy gradient on sampled answers plus the exact reverse KL of each step.

    .. math:: \operatorname{mean}_\text{tokens} \max(-A\,w,\, -A\,\operatorname{clip}(w, 1 \pm \epsilon))
        + \operatorname{mean}_\text{tokens} \mathrm{KL}(p_s \| p_t)

    with the reward :math:`r = (\log p_t(y) - \log p_s(y)) / s`, A its :func:`minillm_advantage`, and the importance
    weight :math:`w = p_s(y) / \tilde p(y)` of the distribution that the tokens were sampled from. The tokens come
    from a rollout; on data that the student did not write this is not the paper's gradient.

    References:
        [0] Gu, Dong, Wei, Huang. MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024.
        [1] microsoft/LMOps, minillm/minillm/losses.py (ppo_loss), sampler.py (rewards and weights)

    Differs from [1]: rewards are those of the present student instead of the one at sampling time (equal where each
    sample is used once); no language-modelling term (add the term ``ce``); see :func:`minillm_advantage`.

    Args:
        student: Student logits, (B, T, V), aligned with ``target``.
        teacher: Teacher logits, same shape.
        target: Sampled tokens, (B, T) int64; any value where masked.
        mask: Valid positions, (B, T); None for the positions where target is not -100.
        behaviour: Log-probability of each token under the sampling distribution, (B, T); None for the mixture of
            teacher and present student by ``teacher_mix``.
        gamma: Discount per token.
        teacher_mix: Share of the teacher in the sampling distribution; 0 where the student sampled alone.
        clip_ratio: Epsilon of the clipped objective.
        reward_scaling: Divides the rewards.
        clip_reward: Bound of the scaled rewards.
        whiten: Whiten the advantages over the batch.
        single_step: Add the exact reverse KL of each step.

    Returns:
        Scalar; 0 where student and teacher agree or no position is valid.

    Raises:
        ValueError: Where shapes differ or ``teacher_mix`` is outside [0, 1].

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2, 3)
        >>> minillm_loss(logits, logits, torch.tensor([[0, 1]])).item()
        0.0
    """
    check_fraction("teacher_mix", teacher_mix)
    mask = target != -100 if mask is None else mask.to(torch.bool)
    log_student, log_teacher = token_log_probs(student, teacher)
    tokens = target.masked_fill(~mask, 0).unsqueeze(-1)
    student_token, teacher_token = (x.gather(-1, tokens).squeeze(-1) for x in (log_student, log_teacher))
    reward = ((teacher_token - student_token.detach()) / reward_scaling).clamp(-clip_reward, clip_reward)
    advantage = minillm_advantage(reward, mask, gamma=gamma, whiten=whiten)
    if behaviour is None:
        behaviour = log_mixture(teacher_token, student_token.detach(), teacher_mix)
    # The clip of an importance weight that overflows would meet inf * 0.
    ratio = (student_token - behaviour.detach()).clamp(max=20).exp()
    policy = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_ratio, 1 + clip_ratio))
    loss = token_mean(policy, mask)
    return loss + token_mean(token_kl(log_student, log_teacher), mask) if single_step else loss


class MiniLLMLoss(nn.Module):
    """Module form of :func:`minillm_loss`."""

    def __init__(
        self,
        gamma: float = 0.95,
        teacher_mix: float = 0.2,
        clip_ratio: float = 0.2,
        reward_scaling: float = 0.5,
        clip_reward: float = 100.0,
        whiten: bool = True,
        single_step: bool = True,
    ) -> None:
        super().__init__()
        check_fraction("teacher_mix", teacher_mix)
        self.gamma, self.teacher_mix, self.clip_ratio = gamma, teacher_mix, clip_ratio
        self.reward_scaling, self.clip_reward = reward_scaling, clip_reward
        self.whiten, self.single_step = whiten, single_step

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        behaviour: Tensor | None = None,
    ) -> Tensor:
        """See :func:`minillm_loss`."""
        return minillm_loss(
            student,
            teacher,
            target,
            mask,
            behaviour,
            gamma=self.gamma,
            teacher_mix=self.teacher_mix,
            clip_ratio=self.clip_ratio,
            reward_scaling=self.reward_scaling,
            clip_reward=self.clip_reward,
            whiten=self.whiten,
            single_step=self.single_step,
        )
