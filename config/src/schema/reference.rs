pub fn reference() -> String {
    super::json_schema()
}
