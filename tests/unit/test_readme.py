"""What the README says is so."""

from tests.readme import README, with_settings_table

TEXT = README.read_text(encoding="utf-8")


def test_the_settings_table_is_the_settings() -> None:
    assert with_settings_table(TEXT) == TEXT, "python -m tests.readme writes it anew"


def test_ci_runs_exactly_the_test_command() -> None:
    command = next(line for line in TEXT.splitlines() if line.endswith("-m tests"))
    assert command in (README.parent / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_command_is_in_the_readme() -> None:
    from imgsim.cli import cli

    for name in cli.commands:
        assert f"| `imgsim {name}" in TEXT


def test_every_error_type_that_a_client_can_see_is_in_the_readme() -> None:
    from imgsim.adapters.http.problems import STATUS_OF_ERROR

    for error, status in STATUS_OF_ERROR.items():
        assert f"`{error.code}`" in TEXT, f"{error.__name__} ({status})"


def test_every_route_is_in_the_readme() -> None:
    from imgsim.adapters.http.app import create_app
    from imgsim.container import Container
    from imgsim.roles import SERVE
    from imgsim.settings import load_settings

    app = create_app(Container(settings=load_settings()).services(), SERVE.routes)
    for route in app.routes:
        path = route.path_format.replace("{image_id}", "{id}").replace("{import_id}", "{id}")
        if not path.startswith("/schema"):
            assert path in TEXT, path
