/*
 * The token of whoever looks at the page, for as long as this tab is open. `hedgerow dashboard` hands one over behind `#key=`, which
 * browsers do not send, and which is taken out of the address at once.
 */
const KEPT = 'hedgerow.token'

export function keptToken(): string | undefined {
  const [, key] = /^#key=([\w.~-]{16,})$/.exec(location.hash) ?? []
  if (key !== undefined) {
    sessionStorage.setItem(KEPT, key)
    history.replaceState(null, '', `${location.pathname}#/services`)
  }
  return sessionStorage.getItem(KEPT) ?? undefined
}

export function keepToken(token: string): void {
  sessionStorage.setItem(KEPT, token)
}

export function forgetToken(): void {
  sessionStorage.removeItem(KEPT)
}
