pytest_plugins = ["tests.services", "tests.guest_wat", "tests.component_wat"]
