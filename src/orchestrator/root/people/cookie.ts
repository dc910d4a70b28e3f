import type { IncomingHttpHeaders } from 'node:http'

/*
 * The session of a browser. Programs of the page cannot read it (HttpOnly), it goes over TLS and to this host only (`__Host-`), and other
 * sites’ pages neither send it (SameSite=Strict) nor would be believed: every browser says in `Sec-Fetch-Site` whose page asks.
 */

export const SESSION_COOKIE = '__Host-hedgerow'

export function sessionCookie(token: string, seconds: number): string {
  return `${SESSION_COOKIE}=${token}; Path=/; Max-Age=${seconds}; Secure; HttpOnly; SameSite=Strict`
}

export function clearedCookie(): string {
  return `${SESSION_COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict`
}

/** The session in the cookie, where the page of this root asks. */
export function sessionIn({ cookie, 'sec-fetch-site': site }: IncomingHttpHeaders): string | undefined {
  if (cookie === undefined || site !== 'same-origin') return undefined
  const found = cookie.split(';').flatMap((part) => {
    const [name = '', value = ''] = part.trim().split('=', 2)
    return name === SESSION_COOKIE ? [value] : []
  })
  return found.length === 1 ? found[0] : undefined
}
