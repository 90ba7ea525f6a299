pytest_plugins = ["tests.services", "tests.guest_wat"]
