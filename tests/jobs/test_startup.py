"""What prevents a gateway with jobs from starting, in a line that names the setting."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.services import ScriptedServices
from tests.jobs.farm import Farm

DATABASE = "ATELIER_GATEWAY_JOBS_DATABASE"


def refused(**settings: str) -> str:
    """Start a gateway that cannot; return the last line that it says."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ATELIER_")}
    environment |= {"ATELIER_GATEWAY_PORT": "0", "ATELIER_GATEWAY_HOST": "127.0.0.1"}
    environment |= {f"ATELIER_GATEWAY_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "atelier_gateway", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (2, 3) and "Traceback" not in done.stdout + done.stderr
    return done.stderr.strip().rpartition("\n")[2].strip()


def test_a_database_that_cannot_be_reached_and_whose_password_is_not_told(tmp_path: Path) -> None:
    url = "postgresql://atelier:hush@127.0.0.1:1/jobs"
    said = refused(JOBS_DATABASE=url, JOBS_FILES=f"file:{tmp_path}/files")
    assert said.startswith(DATABASE) and "refused" in said and "hush" not in said
    said = refused(JOBS_DATABASE="postgres:atelier:hush@127.0.0.1")
    assert DATABASE in said and "hush" not in said


def test_a_file_of_sqlite_that_another_gateway_has(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with ScriptedServices() as services, Farm(services, tmp_path, url) as farm:
        farm.gateway()
        said = refused(JOBS_DATABASE=url, JOBS_FILES=f"file:{tmp_path}/files")
    assert DATABASE in said and "another gateway uses" in said and "PostgreSQL" in said


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"REPLICAS": "2"}, "ATELIER_GATEWAY_REPLICAS=2: gateways cannot share SQLite"),
        ({"JOBS_DATABASE": "sqlite:///:memory:"}, "ATELIER_GATEWAY_JOBS_DATABASE: is not sqlite:///FILE"),
        ({"JOBS_DATABASE": "postgresql://a:b@hush:c@127.0.0.1:1/x"}, "ATELIER_GATEWAY_JOBS_DATABASE"),
        ({"JOBS_DATABASE": "postgresql://a:b@hush@127.0.0.1:1/x"}, "write it as %40"),
        ({"JOBS_DATABASE": "postgresql://a:hush@127.0.0.1:port/x"}, "ATELIER_GATEWAY_JOBS_DATABASE"),
        ({"JOBS_FILES": "/var/jobs"}, "ATELIER_GATEWAY_JOBS_FILES=/var/jobs: is not file:FOLDER"),
        ({"WEBHOOK_SECRETS": "hush"}, "ATELIER_GATEWAY_WEBHOOK_SECRETS: secret 1 is not whsec_"),
        ({"WEBHOOK_SECRETS": "whsec_aHVzaA=="}, "ATELIER_GATEWAY_WEBHOOK_SECRETS: secret 1 is not whsec_"),
    ],
)
def test_settings(settings: dict[str, str], named: str) -> None:
    said = refused(**settings)
    assert named in said and "hush" not in said and "aHVzaA" not in said


def test_tables_of_a_later_version(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with ScriptedServices() as services, Farm(services, tmp_path, url) as farm:
        farm.gateway()
    with sqlite3.connect(tmp_path / "jobs.db") as tables:
        tables.execute("UPDATE job_schema SET version_num = '9999'")
    said = refused(JOBS_DATABASE=url, JOBS_FILES=f"file:{tmp_path}/files")
    assert said.startswith(f"{DATABASE}: its tables are of a later version (9999, this knows ")


def test_files_of_another_database(tmp_path: Path) -> None:
    """What has no row is deleted, so two databases must not share a folder."""
    with ScriptedServices() as services, Farm(services, tmp_path, f"sqlite:///{tmp_path}/a.db") as farm:
        farm.gateway()
    said = refused(JOBS_DATABASE=f"sqlite:///{tmp_path}/b.db", JOBS_FILES=f"file:{tmp_path}/files")
    assert said.startswith("ATELIER_GATEWAY_JOBS_FILES") and "another database" in said


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    said = refused(JOBS_DATABASE=f"sqlite:///{tmp_path}/file/jobs.db")
    assert said.startswith(DATABASE)
