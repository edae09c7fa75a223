/** CSV as RFC 4180 has it: fields in quotes may hold commas, quotes and line breaks. */

/** A record and the line of the file that it begins in, from 1. */
export interface CsvRecord {
  line: number;
  fields: string[];
}

/** Throws SyntaxError with the line where a quote is not closed. */
export function parseCsv(text: string): CsvRecord[] {
  const records: CsvRecord[] = [];
  let line = 1;
  let record: CsvRecord = { line, fields: [] };
  let position = 0;
  while (position < text.length) {
    const field = readField(text, position, line);
    record.fields.push(field.value);
    line += field.value.split("\n").length - 1;
    position = field.end;
    const next = text[position];
    if (next === ",") {
      position += 1;
      if (position === text.length) record.fields.push("");
      continue;
    }
    position += text.startsWith("\r\n", position) ? 2 : 1;
    line += 1;
    if (record.fields.some((one) => one !== "")) records.push(record);
    record = { line, fields: [] };
  }
  if (record.fields.some((one) => one !== "")) records.push(record);
  return records;
}

function readField(text: string, start: number, line: number): { value: string; end: number } {
  if (text[start] !== '"') {
    let end = start;
    while (end < text.length && !",\r\n".includes(text[end] ?? "")) end += 1;
    return { value: text.slice(start, end), end };
  }
  let value = "";
  let position = start + 1;
  for (;;) {
    const quote = text.indexOf('"', position);
    if (quote < 0) throw new SyntaxError(`line ${line}: a quote is not closed`);
    value += text.slice(position, quote);
    if (text[quote + 1] !== '"') {
      const end = quote + 1;
      if (end < text.length && !",\r\n".includes(text[end] ?? "")) {
        throw new SyntaxError(`line ${line}: text after a closing quote`);
      }
      return { value, end };
    }
    value += '"';
    position = quote + 2;
  }
}

export function formatCsv(rows: (string | number | null)[][]): string {
  return rows.map((row) => `${row.map(formatField).join(",")}\r\n`).join("");
}

function formatField(value: string | number | null): string {
  if (value === null) return "";
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
