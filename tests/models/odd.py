"""Nets as people bring them: with other answers, other inputs, other faults than this package expects."""

from collections import namedtuple

from torch import nn

Answer = namedtuple("Answer", ["logits", "features"])


class Plain(nn.Module):
    """One convolution and a classifier."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


class Mapped(Plain):
    def forward(self, x):
        return {"logits": super().forward(x), "features": self.conv(x)}


class Named(Plain):
    def forward(self, x):
        return Answer(super().forward(x), x)


class OtherKey(Plain):
    def forward(self, x):
        return {"out": super().forward(x)}


class Pair(Plain):
    def forward(self, x):
        return super().forward(x), x


class Two(Plain):
    def forward(self, x, y):
        return super().forward(x) + super().forward(y)


class Summed(Plain):
    def forward(self, x):
        return super().forward(x).sum()


class Broken(Plain):
    def forward(self, x):
        return self.fc(x.flatten(1))
