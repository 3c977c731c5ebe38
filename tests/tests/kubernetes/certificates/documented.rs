//! The trial of the documents on an API server, as a person types it.

use gatehouse_tests::documents::{blocks, section};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::trial::Trial;

#[test]
fn who_types_what_the_documents_say_has_a_certificate_from_an_ingress() {
    alone(|| {
        let text = section("docs/certificates.md", "## Try it");
        let files = &blocks(&text, "sh")[0];
        let text = section("docs/certificates.md", "### On a Kubernetes API server");
        let [more, programs, objects, gateway] = &blocks(&text, "sh")[..] else {
            panic!("other blocks than this test knows:\n{text}");
        };
        let mut trial = Trial::new();
        trial.run(files);
        trial.run(more);
        trial.open(programs);
        trial.wait_shown("apiserver: https://");
        trial.run(objects);
        trial.open(gateway);
        for block in blocks(&text, "") {
            trial.answers(&block);
        }
    });
}
