"""The smallest machine that has what a group asks for."""

from __future__ import annotations

import pytest

from ray_si.provision.machines import MACHINES, WITHOUT_GPU, machine_for


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_machines_without_gpus_go_from_small_to_large(cloud):
    memories = [machine.memory_gib for machine in WITHOUT_GPU[cloud]]
    assert memories == sorted(memories)
    for machine in WITHOUT_GPU[cloud]:
        assert machine_for(cloud, None, 0, machine.cpus, machine.memory_gib) == machine.name


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_one_four_and_eight_gpus_are_in_one_machine(cloud):
    for gpus in (1, 4, 8):
        assert machine_for(cloud, "L4", gpus, 4, 16)
    assert machine_for(cloud, "H100", 8, 100, 1000)
    for (accelerator, gpus), machine in MACHINES[cloud].items():
        assert machine_for(cloud, accelerator, gpus, machine.cpus, 4) == machine.name


def test_more_than_a_machine_has_is_no_machine():
    assert machine_for("aws", "L4", 1, 9, 16) is None
    assert machine_for("aws", "L4", 3, 1, 16) is None
    assert machine_for("aws", None, 0, 1, 100_000) is None
