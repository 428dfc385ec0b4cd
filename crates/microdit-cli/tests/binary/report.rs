//! Pages about runs, seen as a browser sees them.

use crate::{
    browser,
    common::{fails, microdit, succeeds, text},
    tiny::{assert_same, command, finish, metrics},
};
use std::{fs, path::Path};

/// Checks that a page is whole, and that a browser fetches nothing for it: what refers to something refers to the page itself.
#[track_caller]
pub(crate) fn stands_alone(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    let policy = page
        .split("Content-Security-Policy\" content=\"")
        .nth(1)
        .unwrap();
    let policy = policy.split('"').next().unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(
        policy.contains("img-src data:;") && !policy.contains("unsafe"),
        "{policy}"
    );
    // The script's own text is not markup.
    let markup: String = page
        .split("<script")
        .map(|part| {
            part.split_once("</script>")
                .map_or(part, |(_, after)| after)
        })
        .collect();
    for attribute in [
        "src",
        "href",
        "srcset",
        "poster",
        "data",
        "action",
        "formaction",
        "background",
        "cite",
    ] {
        for value in markup.split(&format!(" {attribute}=\"")).skip(1) {
            let value = &value[..value.len().min(30)];
            assert!(
                value.starts_with("data:image/png;base64,"),
                "{attribute}={value}"
            );
        }
    }
    for loading in [
        "url(", "@import", "<link", "<iframe", "<object", "<embed", "<base",
    ] {
        assert!(!markup.contains(loading), "{loading}");
    }
}

fn page(path: &Path) -> String {
    let page = fs::read_to_string(path).unwrap();
    stands_alone(&page);
    page
}

#[test]
fn a_run_keeps_a_page_and_the_command_writes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let said = finish(&run, &[]);
    assert!(
        said.contains("report: ") && said.contains("run/report.html"),
        "{said}"
    );
    let kept = page(&run.join("report.html"));
    for part in [
        "finished",
        "14",
        "held out: loss",
        "sigma 0.067",
        "learning rate",
        "a large red circle on a white background",
        "FLOPs, by the cost model",
        env!("CARGO_PKG_VERSION"),
        "name: &quot;tiny&quot;",
    ] {
        assert!(kept.contains(part), "no {part}");
    }
    assert!(!kept.contains("data-live"), "it is finished");
    // Two grids on the way and the last one.
    assert_eq!(kept.matches("<img class=\"samples\"").count(), 3);
    let out = folder.path().join("page.html");
    let plots = folder.path().join("plots");
    let [run_text, out_text, plots_text] = [&run, &out, &plots].map(|path| path.to_str().unwrap());
    let said = succeeds(&["report", run_text, "--out", out_text, "--plots", plots_text]);
    assert!(said.contains("each as SVG and PNG"), "{said}");
    assert_eq!(page(&out), kept);
    for figure in ["loss", "lr", "held_out-loss", "held_out-loss-by-level"] {
        let svg = fs::read_to_string(plots.join(format!("{figure}.svg"))).unwrap();
        assert!(svg.contains("<path class=\"curve"), "{figure}: {svg}");
        let png = image::open(plots.join(format!("{figure}.png"))).unwrap();
        assert_eq!(png.width(), 1040);
    }
}

#[test]
fn runs_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    finish(&one, &[]);
    finish(&other, &["--set", "optimizer.lr=1e-3", "--no-report"]);
    assert!(!other.join("report.html").exists());
    // What a killed process and a damaged disk leave.
    for name in ["metrics.jsonl", "evaluation.jsonl"] {
        let mut log = fs::read(other.join(name)).unwrap();
        log.extend(b"\xff\xfe{\"step\":3}\n{\"step\":10,\"loss");
        fs::write(other.join(name), log).unwrap();
    }
    let rows = r#"{"results": [{"metric": "kid", "value": 0.0125, "standard_error": 0.001, "samples": 5000, "network": "<i>inception"}]}"#;
    fs::write(one.join("eval.json"), rows).unwrap();
    let out = folder.path().join("page.html");
    let [one, other, out_text] = [&one, &other, &out].map(|path| path.to_str().unwrap());
    succeeds(&["report", one, other, "--out", out_text]);
    let page = page(&out);
    for part in [
        "2 runs",
        "other: 2 damaged lines of its log are left out",
        "stages.masked.optimizer.lr",
        "0.0125",
        "&lt;i&gt;inception",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(
        !page.contains(">stages.masked.batch<"),
        "it does not differ"
    );
}

#[test]
fn what_comes_from_outside_is_text() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("<img src=x onerror=alert(1)>&amp;");
    let hostile = "</script><script>alert(2)</script>'\\\"\u{202e}";
    let prompts = format!("sampling.prompts=[{hostile:?}]");
    finish(
        &run,
        &["--set", &prompts, "--set", r#"stages.masked.name="masked""#],
    );
    let mut log = fs::read_to_string(run.join("evaluation.jsonl")).unwrap();
    log += "{\"step\":14,\"probe\":\"<b onclick=alert(3)>\",\"</svg><script>alert(4)</script>\":1.0}\n";
    fs::write(run.join("evaluation.jsonl"), log).unwrap();
    let process = r#"[{"commit": "<script>alert(5)</script>", "arguments": ["<svg onload=alert(6)>"], "devices": ["\u0000\u001b[31m"]}]"#;
    fs::write(run.join("run.json"), process).unwrap();
    let eval = r#"{"results": [{"metric": "<script>alert(7)</script>", "value": "\"><img src=http://a.b>"}]}"#;
    fs::write(run.join("eval.json"), eval).unwrap();
    let out = folder.path().join("page.html");
    let plots = folder.path().join("plots");
    let [run, out_text, plots_text] = [&run, &out, &plots].map(|path| path.to_str().unwrap());
    succeeds(&["report", run, "--out", out_text, "--plots", plots_text]);
    let page = page(&out);
    for (i, active) in [
        "<img src=x",
        "<b onclick",
        "<script>alert",
        "<svg onload",
        "<img src=http",
        "\u{1b}",
        "\0",
    ]
    .iter()
    .enumerate()
    {
        assert!(!page.contains(active), "{i}: {active}");
    }
    for shown in [
        "&lt;img src=x onerror=alert(1)&gt;&amp;amp;",
        "alert(4)",
        "alert(5)",
        "alert(6)",
        "alert(7)",
    ] {
        assert!(page.contains(shown), "no {shown}");
    }
    for entry in fs::read_dir(&plots).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
            "{name}"
        );
        if name.ends_with(".svg") {
            let svg = fs::read_to_string(&path).unwrap();
            assert!(
                !svg.contains("<script") && !svg.contains('\u{1b}'),
                "{name}"
            );
        }
    }
    browser::shows(&out, "alert(4)");
}

#[test]
fn a_page_that_cannot_be_written_ends_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    finish(&whole, &[]);
    fs::create_dir_all(run.join("report.html")).unwrap();
    fs::write(run.join("report.html/mine"), "mine").unwrap();
    let said = finish(&run, &["--resume"]);
    assert!(said.contains("WARN no report was written"), "{said}");
    assert_eq!(metrics(&run), metrics(&whole));
    fs::remove_dir_all(run.join("report.html")).unwrap();
    assert_same(&run, &whole, "without a page");
}

#[test]
fn what_is_no_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let out = path("page.html");
    for (arguments, part) in [
        (vec![path("none")], "neither a run"),
        (
            vec![folder.path().to_string_lossy().into_owned()],
            "neither a run",
        ),
    ] {
        let mut all = vec!["report", "--out", &out];
        all.extend(arguments.iter().map(String::as_str));
        fails(&microdit(&all), &[part]);
    }
    fs::create_dir(path("sweep")).unwrap();
    fs::write(path("sweep/sweep.jsonl"), "").unwrap();
    let output = microdit(&["report", &path("sweep"), &path("none"), "--out", &out]);
    fails(&output, &["is a sweep", "give a sweep alone"]);
    fails(
        &microdit(&[
            "report",
            &path("sweep"),
            "--out",
            &path("no/such/page.html"),
        ]),
        &["there is no directory"],
    );
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_run_that_fails_before_it_begins_leaves_no_page() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = command(&run, &["--set", "model.dim=17"]).output().unwrap();
    fails(&output, &["dim"]);
    assert!(!run.exists(), "{}", text(&output));
}

#[test]
fn a_sweep_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let mut rows = String::new();
    for (i, (point, mask)) in [("naive", "<b>naive"), ("deferred", "deferred")]
        .into_iter()
        .enumerate()
    {
        for seed in 0..3 {
            let value = 0.2 + 0.1 * i as f64 + 0.01 * f64::from(seed);
            rows += &format!(
                "{{\"point\":\"{point}{seed}\",\"values\":{{\"mask\":\"{mask}\"}},\"seed\":{seed},\"metric\":\"held_out/loss\",\"value\":{value},\"standard_error\":null,\"steps\":100,\"flops\":1e12,\"hours\":0.1,\"dollars\":null,\"status\":\"finished\"}}\n"
            );
        }
    }
    fs::write(path("sweep.jsonl"), rows + "{\"point\":").unwrap();
    let folder_text = folder.path().to_string_lossy();
    let (out, plots) = (path("page.html"), path("plots"));
    succeeds(&["report", &folder_text, "--out", &out, "--plots", &plots]);
    let page = page(Path::new(&out));
    for part in [
        "2 points, 6 runs",
        "&lt;b&gt;naive",
        "0.21 ± 0.02484",
        "&lt;b&gt;naive against deferred: 0.1000",
        "the same difference for each of 3 seeds: no scatter, no verdict",
        "held_out/loss",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(Path::new(&plots).join("metric-held_out-loss.png").is_file());
    browser::shows(Path::new(&out), "held_out/loss");
}
