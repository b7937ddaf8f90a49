//! The reader against hand-made files, and against rows written by the `csv` crate.

use proptest::prelude::*;

use super::*;

fn read_with(text: &[u8], length_max: usize) -> Result<Vec<Result<String, String>>, String> {
    let source = LineReader::new(text, length_max);
    let reader = CsvReader::new(source, "id", Path::new("a.csv"));
    let mut reader = reader.map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next().unwrap() {
        rows.push(match row {
            Ok(document) => {
                let key = String::from_utf8(document.key.key().to_vec()).unwrap();
                let value = String::from_utf8(document.value.to_vec()).unwrap();
                Ok(format!("{} {key} {value}", document.line))
            }
            Err(rejection) => Err(rejection.to_string()),
        });
    }
    Ok(rows)
}

fn read(text: &str) -> Vec<Result<String, String>> {
    read_with(text.as_bytes(), 1000).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside its opposite")]
fn good(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn bad(text: &str) -> Result<String, String> {
    Err(text.to_owned())
}

#[test]
fn a_row_becomes_an_object_of_strings_in_the_order_of_the_header() {
    let rows =
        read("\u{feff}name,id,\"a \"\"b\"\"\"\r\n\"x, y\",7,\r\n\r\n\"say \"\"hi\"\"\",k\"k,\t");
    assert_eq!(
        rows,
        [
            good(r#"2 7 {"name":"x, y","id":"7","a \"b\"":""}"#),
            good(r#"4 k"k {"name":"say \"hi\"","id":"k\"k","a \"b\"":"\t"}"#),
        ]
    );
}

#[test]
fn a_field_may_hold_line_ends() {
    let rows = read("id,text\n1,\"one\ntwo\r\n\nthree\"\n2,x\n");
    assert_eq!(
        rows,
        [
            good(r#"2 1 {"id":"1","text":"one\ntwo\r\n\nthree"}"#),
            good(r#"6 2 {"id":"2","text":"x"}"#),
        ]
    );
}

#[test]
fn a_bad_row_costs_no_other_row() {
    let rows =
        read("id,t\n1\n2,x,y\n,x\n3,\"x\"y\n4,x\n5,\"open\n6,x\n7,\"x\"\n8,\"never closed\n9,x\n");
    assert_eq!(
        rows,
        [
            bad("line 2: the row has 1 fields, the header 2"),
            bad("line 3: the row has 3 fields, the header 2"),
            bad("line 4: the key is empty; give at least one byte"),
            bad("line 5: something follows a closing quote"),
            good(r#"6 4 {"id":"4","t":"x"}"#),
            bad("line 7: something follows a closing quote"),
            good(r#"8 6 {"id":"6","t":"x"}"#),
            good(r#"9 7 {"id":"7","t":"x"}"#),
            bad("line 10: a quote is not closed"),
            good(r#"11 9 {"id":"9","t":"x"}"#),
        ]
    );
}

#[test]
fn a_row_is_of_bounded_length() {
    let rows = read_with(b"id,t\n1,0123456789\n2,\"01\n23\n45\n67\"\n3,x\n", 10).unwrap();
    assert_eq!(
        rows.first(),
        Some(&bad("line 2: the line is 12 bytes; the most is 10"))
    );
    assert_eq!(rows.get(1), Some(&bad("line 3: a quote is not closed")));
    assert_eq!(rows.last(), Some(&good(r#"7 3 {"id":"3","t":"x"}"#)));
    let rows = read_with(b"id,t\n1,\xff\n2,x\n", 10).unwrap();
    assert_eq!(
        rows,
        [
            bad("line 2: not UTF-8 text at byte 3"),
            good(r#"3 2 {"id":"2","t":"x"}"#)
        ]
    );
}

#[test]
fn a_header_that_is_none_is_the_callers_mistake() {
    let refused = |text: &[u8]| read_with(text, 100).unwrap_err();
    assert!(refused(b"").starts_with("a.csv: there is no header"));
    assert!(refused(b"\n\n").starts_with("a.csv: there is no header"));
    assert!(refused(b"id,a,id\n").starts_with("a.csv: the header has the column \"id\" twice"));
    assert!(refused(b"id,\"a\n").starts_with("a.csv: the header: line 1: a quote is not closed"));
    let missing = refused(b"key,name\n");
    assert!(
        missing.contains("no column \"id\"") && missing.contains("key, name"),
        "{missing}"
    );
}

proptest! {
    /// What a well-known writer writes is read as it was meant.
    #[test]
    fn what_others_write_is_understood(
        rows in prop::collection::vec(prop::collection::vec("[ab,\"\r\n\u{e9} ]{0,6}", 3), 1..20)
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["id", "one", "two", "three"]).unwrap();
        for (number, row) in rows.iter().enumerate() {
            let number = number.to_string();
            writer.write_record(std::iter::once(&number).chain(row)).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let read = read_with(&text, 1000).unwrap();
        prop_assert_eq!(read.len(), rows.len());
        for (number, (got, row)) in read.into_iter().zip(rows).enumerate() {
            let got = got.unwrap();
            let (_, object) = got.split_once(&format!(" {number} ")).unwrap();
            let object: serde_json::Value = serde_json::from_str(object).unwrap();
            for (name, field) in ["one", "two", "three"].into_iter().zip(row) {
                prop_assert_eq!(&object[name], &serde_json::Value::String(field));
            }
        }
    }
}
