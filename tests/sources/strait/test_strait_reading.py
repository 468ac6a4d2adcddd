from exporter.simulators.control import truth

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def true_endings(world, clock, since):
    return sorted((run.job, str(run.result)) for run in truth(world, clock(), since, clock() + 1).endings)


def test_endings_after_the_first_poll_are_counted_once(world, clock, reader):
    world.run("daily", created=clock() - 60, duration=30.0)
    assert reader.poll() == "success", reader.fault
    assert reader.endings("daily") == {}

    world.run("daily", duration=20.0, result="failure", error_type="client")
    for _ in range(4):
        assert reader.poll(60) == "success", reader.fault

    assert reader.endings("daily") == {"failure": 1}
    assert reader.count("jobrun_run_errors_total", "daily", "client") == 1
    assert reader.open() == {}
