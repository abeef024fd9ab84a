"""Sources: each reads one kind of data and gives :class:`kd_lightning.data.arrays.Arrays`; nothing else."""
