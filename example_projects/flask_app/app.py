from flask import Flask, render_template

from wasm_gateway.integrations.flask import WasmGateway

app = Flask(__name__)
app.config.from_prefixed_env()  # FLASK_WASM_GATEWAY_STATE_DIR=... and the like
WasmGateway(app)  # the routes of spin.toml


@app.get("/")
def home() -> str:
    return render_template("home.html")
