import Type from 'typebox'
import { MeshError } from '../../../core/errors.ts'
import { Label } from '../../link/schemas.ts'
import type { ApiContext } from '../api-context.ts'
import { wantedBy } from '../people/bounds.ts'
import { belongsTo, isAdministrator } from '../people/people.ts'
import { governs, refusedGrants } from '../people/governing.ts'
import { hashPassword, MAX_PASSWORD } from '../people/passwords.ts'
import type { Organisation, User } from '../people/records.ts'
import { type Grant, ROLE_WORDS } from '../people/roles.ts'
import { operation } from './operation.ts'
import { page, paging } from './page.ts'
import { pageOf } from './schemas.ts'

/** Organisations and users. */

const closed = { additionalProperties: false }
const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const name = Type.Object({ name: Type.String({ minLength: 1, maxLength: 100 }) })
const Deleted = Type.Object({ deleted: Type.Array(Type.String()) })

export const GrantOf = Type.Object(
  { role: Type.Enum(ROLE_WORDS), organisation: Type.Optional(Label) },
  { ...closed, description: 'A role in an organisation; that of the administrator is in none.' },
)
const Grants = Type.Array(GrantOf, { maxItems: 100 })
const Namespaces = Type.Array(Label, {
  maxItems: 1_000,
  description: 'Of apps; each belongs to at most one organisation.',
})
const QuotaOf = Type.Object(
  {
    services: Type.Optional(Count),
    instances: Type.Optional(Count),
    memoryMb: Type.Optional(Count),
    vcpus: Type.Optional(Type.Number({ minimum: 0, maximum: 1e9 })),
  },
  { ...closed, description: 'What its services may want in all; without limit where absent.' },
)
const OrganisationRow = Type.Object({
  name: Type.String(),
  namespaces: Type.Array(Type.String()),
  quota: QuotaOf,
  wanted: Type.Object({ services: Count, instances: Count, memoryMb: Type.Number(), vcpus: Type.Number() }),
  createdAt: Count,
})
const UserRow = Type.Object({
  name: Type.String(),
  organisation: Type.Optional(
    Type.String({ description: 'Whose administrators may give it a password and delete it.' }),
  ),
  grants: Type.Array(GrantOf),
  hasPassword: Type.Boolean(),
  createdAt: Count,
})

function organisationRow({ name, namespaces, quota = {}, createdAt }: Organisation, { store }: ApiContext) {
  const specs = store.whole.services
    .list()
    .flatMap(({ spec }) => (namespaces.includes(spec.appNamespace) ? [spec] : []))
  return { name, namespaces: [...namespaces], quota, wanted: wantedBy(specs), createdAt }
}

const userRow = ({ name, organisation, grants, password, createdAt }: User) => ({
  name,
  ...(organisation === undefined ? {} : { organisation }),
  grants: grants.map((grant) => ({ ...grant })),
  hasPassword: password !== undefined,
  createdAt,
})

const listOrganisations = operation({
  id: 'listOrganisations',
  needs: 'see listed',
  path: '/organisations',
  summary: 'Organisations, what is theirs, and their quotas',
  query: Type.Object({ ...paging }),
  answer: pageOf(OrganisationRow),
  run: ({ query }, context) =>
    page(context.store.organisations.list(), query, {
      idOf: (organisation) => organisation.name,
      fits: (organisation) => context.view.may('see', { kind: 'organisation', organisation: organisation.name }),
      rowOf: (organisation) => organisationRow(organisation, context),
    }),
})

const createOrganisation = operation({
  id: 'createOrganisation',
  needs: 'mesh mesh',
  method: 'post',
  path: '/organisations',
  summary: 'Creates an organisation',
  body: Type.Object({ name: Label, namespaces: Type.Optional(Namespaces), quota: Type.Optional(QuotaOf) }, closed),
  answer: OrganisationRow,
  refusals: [403, 415, 507],
  run: ({ body }, context) => {
    const { name, namespaces = [name], quota } = body
    const made = context.people.createOrganisation(name, { namespaces, ...(quota === undefined ? {} : { quota }) })
    tellNodes(made.namespaces, context)
    return organisationRow(made, context)
  },
})

const changeOrganisation = operation({
  id: 'changeOrganisation',
  needs: 'mesh mesh',
  method: 'patch',
  path: '/organisations/{name}',
  summary: 'Changes the namespaces or the quota of an organisation',
  params: name,
  body: Type.Object({ namespaces: Type.Optional(Namespaces), quota: Type.Optional(QuotaOf) }, closed),
  answer: OrganisationRow,
  refusals: [403, 404, 415, 507],
  run: ({ params, body }, context) => {
    const before = context.people.organisation(params.name)
    const after = context.people.changeOrganisation(params.name, body)
    tellNodes([...before.namespaces, ...after.namespaces], context)
    return organisationRow(after, context)
  },
})

const deleteOrganisation = operation({
  id: 'deleteOrganisation',
  needs: 'mesh mesh',
  method: 'delete',
  path: '/organisations/{name}',
  summary: 'Deletes an organisation that has no apps, users and clusters',
  params: name,
  answer: Deleted,
  refusals: [403, 404, 507],
  run: ({ params }, { people }) => {
    people.deleteOrganisation(params.name)
    return { deleted: [params.name] }
  },
})

/** Who may call the services of these namespaces has changed. */
function tellNodes(namespaces: readonly string[], { store, reconciler }: ApiContext): void {
  const changed = new Set(namespaces)
  for (const { id, spec } of store.services.list()) if (changed.has(spec.appNamespace)) reconciler.publish(id)
}

const listUsers = operation({
  id: 'listUsers',
  needs: 'see listed',
  path: '/users',
  summary: 'Users of the organisations whose administrator asks, and oneself',
  query: Type.Object({ ...paging }),
  answer: pageOf(UserRow),
  run: ({ query }, { store, view }) =>
    page(store.users.list(), query, {
      idOf: (user) => user.name,
      fits: (user) =>
        user.name === view.who.user ||
        view.isWhole ||
        store.organisations
          .keys()
          .some(
            (organisation) =>
              belongsTo(user, organisation) && view.may('people', { kind: 'organisation', organisation }),
          ),
      rowOf: (user) => ({
        ...userRow(user),
        // what it may elsewhere is not told
        grants: user.grants.filter(
          ({ organisation }) =>
            user.name === view.who.user ||
            view.isWhole ||
            (organisation !== undefined && view.may('people', { kind: 'organisation', organisation })),
        ),
      }),
    }),
})

const PasswordText = Type.String({ minLength: 1, maxLength: MAX_PASSWORD })

const createUser = operation({
  id: 'createUser',
  needs: 'people given',
  method: 'post',
  path: '/users',
  summary: 'Creates a user',
  body: Type.Object(
    {
      name: Label,
      organisation: Type.Optional(Label),
      grants: Type.Optional(Grants),
      password: Type.Optional(PasswordText),
    },
    closed,
  ),
  answer: UserRow,
  refusals: [403, 404, 415, 507],
  run: async ({ body }, { people, view }) => {
    const { name, organisation, grants = [], password } = body
    view.require('people', organisation === undefined ? { kind: 'mesh' } : { kind: 'organisation', organisation })
    checkGrants([], grants, view)
    const hash = password === undefined ? {} : { password: await hashPassword(password) }
    const made = people.createUser({ name, ...(organisation === undefined ? {} : { organisation }), grants, ...hash })
    return userRow(made)
  },
})

const changeUser = operation({
  id: 'changeUser',
  needs: 'people given',
  method: 'patch',
  path: '/users/{name}',
  summary: 'Gives a user roles, and takes them',
  params: name,
  body: Type.Object(
    {
      add: Type.Optional(Grants),
      remove: Type.Optional(Grants),
    },
    closed,
  ),
  answer: UserRow,
  refusals: [403, 404, 415, 507],
  run: ({ params, body }, context) => {
    const { people, view } = context
    const user = knownUser(params.name, context)
    const { add = [], remove = [] } = body
    const kept = user.grants.filter((grant) => !remove.some((other) => isSame(grant, other)))
    const grants = [...kept, ...add.filter((grant) => !kept.some((other) => isSame(grant, other)))]
    checkGrants(user.grants, grants, view)
    return userRow(people.putUser({ ...user, grants }))
  },
})

const setPassword = operation({
  id: 'setPassword',
  needs: 'self',
  method: 'put',
  path: '/users/{name}/password',
  summary: 'Gives a user another password, and ends its sessions',
  params: name,
  body: Type.Object(
    {
      password: PasswordText,
      old: Type.Optional(Type.String({ maxLength: MAX_PASSWORD, description: 'Of oneself: the one before.' })),
    },
    closed,
  ),
  answer: Type.Object({ user: Type.String() }),
  refusals: [403, 404, 415, 507],
  run: async ({ params, body, request }, context) => {
    const { people, view, passwords } = context
    const user = knownUser(params.name, context)
    const isOwn = user.name === view.who.user
    if (view.who.by === 'token') throw new MeshError('FORBIDDEN', { reason: 'an API token changes no password' })
    if (isOwn) {
      const tried = { password: body.old ?? '', user: user.name, from: request.ip }
      if (!(await passwords.isRight(user.password, tried))) throw new MeshError('LOGIN_REFUSED')
    } else if (!governs(view, user)) throw notGoverned(user)
    const password = await hashPassword(body.password)
    const now = people.user(user.name) // as it is by now
    if (!isOwn && !governs(view, now)) throw notGoverned(now)
    people.putUser({ ...now, password })
    people.endSessions(user.name)
    return { user: user.name }
  },
})

const deleteUser = operation({
  id: 'deleteUser',
  needs: 'people given',
  method: 'delete',
  path: '/users/{name}',
  summary: 'Deletes a user with its tokens, and ends its sessions',
  params: name,
  answer: Deleted,
  refusals: [403, 404, 507],
  run: ({ params }, context) => {
    const user = knownUser(params.name, context)
    if (!governs(context.view, user)) throw notGoverned(user)
    context.people.deleteUser(user.name)
    return { deleted: [user.name] }
  },
})

/** One that the caller may know of. @throws MeshError USER_UNKNOWN */
function knownUser(name: string, { people, view, store }: ApiContext): User {
  const user = people.user(name)
  const isKnown =
    user.name === view.who.user ||
    isAdministrator(view.who) ||
    store.organisations
      .keys()
      .some(
        (organisation) => belongsTo(user, organisation) && view.may('people', { kind: 'organisation', organisation }),
      )
  if (!isKnown) throw new MeshError('USER_UNKNOWN', { user: name.slice(0, 100) })
  return user
}

/** @throws MeshError FORBIDDEN, USAGE */
function checkGrants(before: readonly Grant[], after: readonly Grant[], view: ApiContext['view']): void {
  const [reason] = refusedGrants(before, after, view)
  if (reason !== undefined) throw new MeshError('FORBIDDEN', { permission: 'people', reason })
}

function notGoverned({ name }: User): MeshError {
  return new MeshError('FORBIDDEN', {
    permission: 'people',
    reason: `${name} has a role, or an organisation, that you do not decide about`,
    remedy: 'Take the roles of your own organisation from it, or ask the administrator of the mesh.',
  })
}

function isSame(one: Grant, other: Grant): boolean {
  return one.role === other.role && one.organisation === other.organisation
}

export const PEOPLE = [
  listOrganisations,
  createOrganisation,
  changeOrganisation,
  deleteOrganisation,
  listUsers,
  createUser,
  changeUser,
  setPassword,
  deleteUser,
]
