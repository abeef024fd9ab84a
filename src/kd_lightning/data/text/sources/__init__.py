"""Sources of text: each reads one kind of data and gives :class:`kd_lightning.data.text.texts.Texts`; nothing else."""
