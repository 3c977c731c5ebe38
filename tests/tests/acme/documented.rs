//! The trial of the documents, as a person types it.

use gatehouse_tests::documents::{blocks, section};
use gatehouse_tests::kubernetes::cluster::alone;
use gatehouse_tests::trial::Trial;

#[test]
fn who_types_what_the_documents_say_has_a_certificate_and_gets_the_answers() {
    alone(|| {
        let text = section("docs/certificates.md", "## Try it");
        let (text, _) = text.split_once("\n### ").expect("another trial behind it");
        let [files, programs] = &blocks(text, "sh")[..] else {
            panic!("other blocks than this test knows:\n{text}");
        };
        let mut trial = Trial::new();
        trial.run(files);
        trial.open(programs);
        trial.wait_shown("certificate issued");
        for block in blocks(text, "") {
            trial.answers(&block);
        }
        // The same shell and programs, as that section says.
        for block in blocks(&section("docs/certificates.md", "## Ask and act"), "") {
            trial.answers_alike(&block);
        }
    });
}
