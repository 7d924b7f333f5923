"""Tests of the dependency audit, outside a sandbox: python3 test_pipeline.py"""

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path
from unittest import mock

import lockfile
import pipeline
import signing
import verify

HERE = Path(__file__).resolve().parent
KEY = b"a signing key \x00\xff\n of any bytes"
FILES = "audit.log dependencies.csv dependents.svg report.html report.html.sig summary.json".split()


class Audit(unittest.TestCase):
    """One run over the small project in `fixture`."""

    def setUp(self):
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.output = self.root / "output"
        self.key = self.root / ".belljar/secrets/SIGNING_KEY"
        self.key.parent.mkdir(parents=True)
        self.key.write_bytes(KEY)
        self.output.mkdir()
        shutil.copytree(HERE / "fixture", self.root / "project")

    def audit(self, *arguments):
        quiet = contextlib.redirect_stderr(io.StringIO())
        with mock.patch.dict(os.environ, BELLJAR_ROOT=str(self.root)), quiet:
            return pipeline.main(list(arguments))

    def audited(self):
        self.assertEqual(self.audit("--allow-writable-project"), 0)
        return self.output

    def log(self):
        return (self.output / "audit.log").read_text()

    def rows(self):
        with open(self.audited() / "dependencies.csv", newline="") as file:
            return {(row["name"], row["version"]): row for row in csv.DictReader(file)}

    def verify(self, key=None):
        quiet = contextlib.redirect_stderr(io.StringIO())
        with quiet, contextlib.redirect_stdout(io.StringIO()):
            return verify.main(["--key", str(key or self.key), str(self.output / "report.html")])

    def test_every_file_is_written(self):
        self.assertEqual(sorted(path.name for path in self.audited().iterdir()), FILES)

    def test_each_crate_is_one_row(self):
        rows = self.rows()
        self.assertEqual(len(rows), 7)
        oil = rows["oil", "1.2.3"]
        self.assertEqual(oil["source"], "registry")
        self.assertEqual(oil["checksum"], "6" * 64)
        self.assertEqual((oil["depth"], oil["direct"]), ("1", "yes"))
        self.assertEqual(oil["used_by"], "src/flame/mod.rs src/lib.rs")
        cotton = rows["cotton", "1.0.0"]
        self.assertEqual(cotton["depth"], "2")
        self.assertEqual((cotton["dependents"], cotton["dependents_in_all"]), ("2", "3"))

    def test_a_renamed_dependency_is_found_under_its_other_name(self):
        self.assertEqual(self.rows()["braided-wick", "2.1.0"]["used_by"], "src/flame/mod.rs src/lib.rs")

    def test_a_name_in_a_comment_or_another_path_is_no_use(self):
        rows = self.rows()
        self.assertEqual(rows["match-box", "0.4.2"]["used_by"], "")

    def test_findings_name_what_is_odd(self):
        summary = json.loads((self.audited() / "summary.json").read_text())
        self.assertEqual(
            [(f["level"], f["subject"]) for f in summary["findings"]],
            [
                ("warning", "cotton 2.0.0"),
                ("warning", "match-box 0.4.2"),
                ("note", "forgotten 0.1.0"),
                ("note", "match-box"),
                ("note", "cotton"),
            ],
        )
        self.assertEqual(summary["code_lines_by_module"], {"flame": 4, "lib": 4})

    def test_the_chart_is_well_formed(self):
        svg = xml.parse(self.audited() / "dependents.svg").getroot()
        self.assertEqual(svg.tag, "{http://www.w3.org/2000/svg}svg")
        labels = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("cotton 2.0.0", labels)

    def test_a_second_run_changes_nothing_but_the_log(self):
        names = [name for name in FILES if name != "audit.log"]
        first = [(self.audited() / name).read_bytes() for name in names]
        second = [(self.audited() / name).read_bytes() for name in names]
        self.assertEqual(first, second)

    def test_the_signature_fits_the_report(self):
        self.audited()
        self.assertEqual(self.verify(), 0)

    def test_a_changed_report_does_not_verify(self):
        report = self.audited() / "report.html"
        report.write_bytes(report.read_bytes().replace(b"lantern", b"torch  "))
        self.assertEqual(self.verify(), 1)

    def test_another_key_does_not_verify(self):
        self.audited()
        other = self.root / "other"
        other.write_bytes(KEY + b"!")
        self.assertEqual(self.verify(other), 1)

    def test_a_foreign_signature_file_does_not_verify(self):
        (self.audited() / "report.html.sig").write_text("0" * 64 + "  report.html\n")
        self.assertEqual(self.verify(), 1)

    def test_a_second_signature_does_not_verify(self):
        report = self.audited() / "report.html"
        report.write_bytes(report.read_bytes() + b'<p data-signature="%s">' % (b"0" * 64))
        self.assertEqual(self.verify(), 1)

    def test_the_key_is_in_no_output(self):
        for path in self.audited().iterdir():
            self.assertNotIn(KEY, path.read_bytes(), path)

    def test_a_writable_project_is_an_error(self):
        self.assertEqual(self.audit(), 3)
        self.assertIn("the project is not protected", self.log())
        self.assertFalse((self.root / "project" / pipeline.PROBE_NAME).exists())

    def test_a_refused_write_is_logged_with_its_error(self):
        refused = OSError(30, "Read-only file system")
        with mock.patch.object(Path, "touch", side_effect=refused):
            self.assertEqual(self.audit(), 0)
        self.assertIn("refused: Read-only file system (errno 30)", self.log())

    def test_a_short_key_is_an_error(self):
        self.key.write_bytes(b"short")
        self.assertEqual(self.audit(), 1)
        self.assertIn("at least 16", self.log())

    def test_a_missing_key_is_an_error_that_names_it(self):
        self.key.unlink()
        self.assertEqual(self.audit(), 1)
        self.assertIn("SIGNING_KEY", self.log())

    def test_a_damaged_lock_file_is_an_error(self):
        for damage in ("[[package", 'version = 4\n[[package]]\nname = "x"\nversion = "1"\n'):
            with self.subTest(damage):
                (self.root / "project/Cargo.lock").write_text(damage)
                self.assertEqual(self.audit(), 1)

    def test_markup_in_names_is_escaped(self):
        self.assertNotIn("<of>", (self.audited() / "report.html").read_text())


class Signing(unittest.TestCase):
    def test_a_page_without_a_slot_is_refused(self):
        with self.assertRaises(ValueError):
            signing.sign("<p>", KEY)


class Resolve(unittest.TestCase):
    def test_an_ambiguous_need_is_an_error(self):
        crates = [lockfile.Crate("a", "1", None, None), lockfile.Crate("a", "2", None, None)]
        self.assertIs(lockfile.resolve("a 2", crates), crates[1])
        with self.assertRaises(lockfile.LockfileError):
            lockfile.resolve("a", crates)


if __name__ == "__main__":
    unittest.main()
