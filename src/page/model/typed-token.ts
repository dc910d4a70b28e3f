/** What was typed or pasted: a token alone, or the whole credential `admin.json`, which contains it. Undefined: neither. */
export function tokenIn(typed: string): string | undefined {
  const text = typed.trim()
  if (text.startsWith('{')) {
    try {
      const { token } = JSON.parse(text) as { token?: unknown }
      return typeof token === 'string' && isToken(token) ? token : undefined
    } catch {
      return undefined
    }
  }
  return isToken(text) ? text : undefined
}

/** As it may stand in a header (RFC 6750, b64token). */
function isToken(text: string): boolean {
  return /^[A-Za-z0-9\-._~+/]+=*$/.test(text)
}
