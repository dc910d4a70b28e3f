import Type from 'typebox'
import { operation } from './operation.ts'
import { LIMIT, paging } from './page.ts'
import { pageOf } from './schemas.ts'

const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const filter = (description: string) => Type.Optional(Type.String({ minLength: 1, maxLength: 400, description }))

const AuditRow = Type.Object({
  number: Count,
  at: Count,
  user: Type.String(),
  token: Type.Optional(Type.String({ description: 'Its API token or session.' })),
  from: Type.String({ description: 'The address from which it was asked.' }),
  call: Type.String(),
  about: Type.Optional(Type.String()),
  status: Count,
  requestId: Type.String(),
})

/** Who did what: all of it for the administrator, that of their organisation for its administrators. */
export const auditOperation = operation({
  id: 'listAudit',
  needs: 'audit listed',
  path: '/audit',
  summary: 'Who did what, and from where; the newest first',
  query: Type.Object({
    limit: paging.limit,
    cursor: Type.Optional(
      Type.String({ pattern: '^\\d{1,15}$', description: '`next` of the page before. Without it the first page.' }),
    ),
    user: filter('Only what this user did.'),
    about: filter('Only what was about this app, service, instance, node, cluster, user or organisation.'),
    call: filter('Only this call, as in `/v1/openapi.json`: `apply`.'),
    since: Type.Optional(Type.Integer({ minimum: 0, description: 'Not before this time, milliseconds since 1970.' })),
  }),
  answer: pageOf(AuditRow),
  run: async ({ query }, { audit, view }) => {
    const { limit = LIMIT, cursor, ...rest } = query
    const before = cursor === undefined ? undefined : Number(cursor)
    const sees = ({ organisations = [] }: { organisations?: readonly string[] }) =>
      view.isWhole || organisations.some((organisation) => view.may('audit', { kind: 'organisation', organisation }))
    const found = await audit.list({ ...rest, before, sees }, limit + 1)
    const items = found.slice(0, limit).map(({ organisations: _whose, ...entry }) => entry)
    return found.length > limit ? { items, next: String(items.at(-1)?.number) } : { items }
  },
})
