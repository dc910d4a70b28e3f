import type { Answer, Grant, Me } from '../model/who.ts'
import type { Api } from './api.ts'

/** Who asks, and people, organisations and tokens. */

const id = encodeURIComponent

type Row<Page> = Page extends { items: (infer One)[] } ? One : never
export type OrganisationRow = Row<Answer<'listOrganisations'>>
export type UserRow = Row<Answer<'listUsers'>>
export type OwnerRow = Row<Answer<'listClusterOwners'>>
export type TokenRow = Row<Answer<'listApiTokens'>>
export type AuditPage = Answer<'listAudit'>
export type AuditRow = Row<AuditPage>
export type Quota = OrganisationRow['quota']

export const whoAsks = (api: Api, signal?: AbortSignal) => api.get<Me>('/v1/me', signal)

/** How people log in here, beside name and password. */
export const loginWays = (api: Api, signal?: AbortSignal) => api.get<Answer<'getLoginWays'>>('/v1/login', signal)

/** Its session is a cookie. */
export const logIn = (api: Api, user: string, password: string) =>
  api.post<Answer<'login'>>('/v1/login', { user, password, cookie: true })

export const logOut = (api: Api) => api.post<Answer<'logout'>>('/v1/logout')

export const organisations = (api: Api, signal?: AbortSignal) => api.all<OrganisationRow>('/v1/organisations', signal)

export const createOrganisation = (api: Api, body: { name: string; namespaces?: string[]; quota?: Quota }) =>
  api.post<OrganisationRow>('/v1/organisations', body)

export const changeOrganisation = (api: Api, name: string, body: { namespaces: string[]; quota: Quota }) =>
  api.patch<OrganisationRow>(`/v1/organisations/${id(name)}`, body)

export const deleteOrganisation = (api: Api, name: string) => api.delete(`/v1/organisations/${id(name)}`)

export const users = (api: Api, signal?: AbortSignal) => api.all<UserRow>('/v1/users', signal)

export const createUser = (
  api: Api,
  body: { name: string; organisation?: string; grants: Grant[]; password?: string },
) => api.post<UserRow>('/v1/users', body)

export const changeUser = (api: Api, name: string, body: { add: Grant[]; remove: Grant[] }) =>
  api.patch<UserRow>(`/v1/users/${id(name)}`, body)

export const setPassword = (api: Api, name: string, body: { password: string; old?: string }) =>
  api.put<{ user: string }>(`/v1/users/${id(name)}/password`, body)

export const deleteUser = (api: Api, name: string) => api.delete(`/v1/users/${id(name)}`)

export const owners = (api: Api, signal?: AbortSignal) => api.all<OwnerRow>('/v1/cluster-owners', signal)

export const setOwner = (api: Api, cluster: string, organisation: string | null) =>
  api.put<OwnerRow>(`/v1/clusters/${id(cluster)}/owner`, { organisation })

export const setAdmits = (api: Api, cluster: string, admits: string[]) =>
  api.put<OwnerRow>(`/v1/clusters/${id(cluster)}/admits`, { organisations: admits })

export const tokens = (api: Api, signal?: AbortSignal) => api.all<TokenRow>('/v1/api-tokens', signal)

export const createToken = (
  api: Api,
  body: { name: string; ttlSeconds: number; limits?: { grants?: Grant[]; apps?: string[] } },
) => api.post<TokenRow & { token: string }>('/v1/api-tokens', body)

export const revokeToken = (api: Api, token: string) => api.delete(`/v1/api-tokens/${id(token)}`)

export const audit = (api: Api, query: string, signal?: AbortSignal) => api.get<AuditPage>(`/v1/audit${query}`, signal)
