/** The part of the address behind `#`: which view, what is open in it. */
export interface Route {
  view: View
  /** An id of a service or node. */
  open?: string
}

export const VIEWS = ['services', 'calls', 'nodes', 'map', 'why', 'deploy'] as const
/** `account` is where the user's name leads. */
export type View = (typeof VIEWS)[number] | 'account'

/** What cannot be read leads to the first view. */
export function routeIn(hash: string): Route {
  const [, first = '', ...rest] = hash.replace(/^#/, '').split('/')
  const view = [...VIEWS, 'account' as const].find((each) => each === first) ?? 'services'
  const open = decoded(rest.join('/'))
  return open === '' ? { view } : { view, open }
}

export function hashOf({ view, open }: Route): string {
  return open === undefined ? `#/${view}` : `#/${view}/${encodeURIComponent(open)}`
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return ''
  }
}
