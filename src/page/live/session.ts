/*
 * With what the page asks, for as long as it is known:
 *
 *     a token     in this tab until it is closed: pasted, or from `hedgerow dashboard` behind `#key=`, which browsers do not send, and which
 *                 is taken out of the address at once
 *     a session   a cookie that no program of the page can read; kept beside it is only that there is one
 */
export type Auth = { kind: 'token'; token: string } | { kind: 'session' }

const TOKEN = 'hedgerow.token'
const SESSION = 'hedgerow.session'

export function keptAuth(): Auth | undefined {
  if (location.hash === '#session') {
    // back from the identity provider, with the cookie
    keepAuth({ kind: 'session' })
    history.replaceState(null, '', `${location.pathname}#/services`)
  }
  const [, key] = /^#key=([\w.~-]{16,})$/.exec(location.hash) ?? []
  if (key !== undefined) {
    sessionStorage.setItem(TOKEN, key)
    history.replaceState(null, '', `${location.pathname}#/services`)
  }
  const token = sessionStorage.getItem(TOKEN)
  if (token !== null) return { kind: 'token', token }
  return localStorage.getItem(SESSION) === null ? undefined : { kind: 'session' }
}

export function keepAuth(auth: Auth): void {
  if (auth.kind === 'token') sessionStorage.setItem(TOKEN, auth.token)
  else localStorage.setItem(SESSION, 'yes')
}

export function forgetAuth(): void {
  sessionStorage.removeItem(TOKEN)
  localStorage.removeItem(SESSION)
}
