pytest_plugins = ["tests.services", "tests.loopback", "tests.guest_wat", "tests.component_wat"]
