/** What was entered in a form, read with what each field means. */

export function textIn(entered: FormData, name: string): string {
  const value = entered.get(name)
  return typeof value === 'string' ? value.trim() : ''
}

/** Names with spaces or commas between them. */
export function namesIn(entered: FormData, name: string): string[] {
  return [...new Set(textIn(entered, name).split(/[\s,]+/))].filter((one) => one !== '')
}

/** Undefined where nothing was entered. */
export function numberIn(entered: FormData, name: string): number | undefined {
  const text = textIn(entered, name)
  return text === '' ? undefined : Number(text)
}
