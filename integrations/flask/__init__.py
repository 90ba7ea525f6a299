"""Wasm routes in a Flask app.

app = Flask(__name__)
WasmGateway(app)   # the routes of spin.toml beside the app, or of WASM_GATEWAY_MANIFEST
"""

from .extension import WasmGateway

__all__ = ["WasmGateway"]
