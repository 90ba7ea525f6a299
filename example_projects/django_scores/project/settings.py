# A small site for local use. Its databases are in STATE, which DJANGO_SCORES_STATE may move.

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("DJANGO_SCORES_STATE", BASE_DIR / "state"))
STATE.mkdir(parents=True, exist_ok=True)

SECRET_KEY = "nothing is signed here"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = ["wasm_gateway.integrations.django", "scores"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "wasm_gateway.integrations.django.WasmGatewayMiddleware",
    "django.middleware.common.CommonMiddleware",
]
WASM_GATEWAY = {
    "MANIFEST": BASE_DIR / "spin.toml",
    "STATE_DIR": "",
    "INTERFACES": ["scores.interfaces.Board"],
}

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": STATE / "site.sqlite3",
        # a file, for the tests of the async site: a database in memory can be locked by another thread
        "TEST": {"NAME": STATE / "test.sqlite3"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"wasm_gateway": {"handlers": ["stderr"], "level": "WARNING"}},
}
