# A small site for local use. Everything it keeps is in STATE, which FINICKY_WHISKERS_STATE may move.

import os
import secrets
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("FINICKY_WHISKERS_STATE", BASE_DIR / "state"))
STATE.mkdir(parents=True, exist_ok=True)


def secret_key() -> str:
    """The key of this machine, made at the first start."""
    path = STATE / "secret_key"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(50))
    except FileExistsError:
        pass
    return path.read_text()


SECRET_KEY = secret_key()
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "wasm_gateway.integrations.django",
    "arena",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "wasm_gateway.integrations.django.WasmGatewayMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# All that the guests are told of this site: with a value, nobody but views.clear can clear the board.
RESET_TOKEN = os.environ.get("FINICKY_WHISKERS_RESET_TOKEN", "")
WASM_GATEWAY = {
    "MANIFEST": BASE_DIR / "spin.toml",
    "STATE_DIR": STATE / "guests",
    "VARIABLES": {"reset_token": RESET_TOKEN},
}

ROOT_URLCONF = "finicky_whiskers.urls"
WSGI_APPLICATION = "finicky_whiskers.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
            ]
        },
    }
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": STATE / "site.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"
TIME_ZONE = "UTC"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"wasm_gateway": {"handlers": ["stderr"], "level": "WARNING"}},
}
