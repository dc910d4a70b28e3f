import type { RootConfig } from './schema.ts'

/** What the schema of `root.oidc` cannot say. */
export function oidcFaults({ issuer, scopes, roles }: RootConfig['oidc']): string[] {
  if (issuer === 'off') return []
  return [
    ...(scopes.includes('openid') ? [] : ['root.oidc.scopes: must have openid']),
    ...roles.flatMap(({ role, organisation }, at) => {
      const path = `root.oidc.roles.${at}`
      if (role === 'administrator' && organisation !== undefined)
        return [`${path}: an administrator is one of the whole mesh: leave out the organisation`]
      if (role !== 'administrator' && organisation === undefined)
        return [`${path}: ${role} is a role in an organisation: say in which`]
      return []
    }),
  ]
}
