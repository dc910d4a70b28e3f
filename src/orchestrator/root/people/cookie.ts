import type { IncomingHttpHeaders } from 'node:http'

/*
 * The session of a browser. Programs of the page cannot read it (HttpOnly), it goes over TLS and to this host only (`__Host-`), and other
 * sites’ pages neither send it (SameSite=Strict) nor would be believed: every browser says in `Sec-Fetch-Site` whose page asks.
 */

export const SESSION_COOKIE = '__Host-hedgerow'

export function sessionCookie(token: string, seconds: number): string {
  return `${SESSION_COOKIE}=${token}; Path=/; Max-Age=${seconds}; Secure; HttpOnly; SameSite=Strict`
}

/** Of a login by an identity provider: it has to come back from there, by a link of another site (Lax). */
export const LOGIN_COOKIE = '__Host-hedgerow-login'

export function loginCookie(login: string): string {
  return `${LOGIN_COOKIE}=${login}; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=Lax`
}

export function loginIn({ cookie }: IncomingHttpHeaders): string | undefined {
  return onlyOne(cookie, LOGIN_COOKIE)
}

export function clearedCookie(name: string = SESSION_COOKIE): string {
  return `${name}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict`
}

/** The session in the cookie, where the page of this root asks. */
export function sessionIn({ cookie, 'sec-fetch-site': site }: IncomingHttpHeaders): string | undefined {
  return site === 'same-origin' ? onlyOne(cookie, SESSION_COOKIE) : undefined
}

function onlyOne(cookie: string | undefined, wanted: string): string | undefined {
  if (cookie === undefined) return undefined
  const found = cookie.split(';').flatMap((part) => {
    const [name = '', value = ''] = part.trim().split('=', 2)
    return name === wanted ? [value] : []
  })
  return found.length === 1 ? found[0] : undefined
}
