import Type from 'typebox'
import { Label } from '../../link/schemas.ts'
import { createJoinToken } from '../api-clusters.ts'
import { secretNamed } from '../api-secrets.ts'
import { MAX_SECRET_BYTES } from '../secrets.ts'
import { operation } from './operation.ts'
import { page, paging } from './page.ts'
import { pageOf, Secret } from './schemas.ts'

/** Secrets of apps, and the tokens with which others join: what comes in or goes out here is kept nowhere else. */

const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const name = Type.String({ minLength: 1, maxLength: 200, description: '`app.namespace.name`' })
const closed = { additionalProperties: false }

const listSecrets = operation({
  id: 'listSecrets',
  needs: 'secrets listed',
  path: '/secrets',
  summary: 'Secrets, without their values',
  query: Type.Object({
    ...paging,
    name: Type.Optional(Type.String({ minLength: 1, maxLength: 400, description: 'Only those whose name begins so.' })),
  }),
  answer: pageOf(Secret),
  run: ({ query }, { secrets }) =>
    page(secrets.list(), query, {
      idOf: (secret) => secret.name,
      fits: query.name === undefined ? undefined : (secret) => secret.name.startsWith(query.name ?? ''),
      rowOf: (secret) => secret,
    }),
})

const putSecret = operation({
  id: 'putSecret',
  needs: 'secrets given',
  method: 'post',
  path: '/secrets',
  summary: 'Keeps a secret, sealed',
  isSecret: true,
  body: Type.Object(
    {
      name,
      value: Type.String({
        maxLength: Math.ceil(MAX_SECRET_BYTES / 3) * 4,
        pattern: '^[A-Za-z0-9+/]*={0,2}$',
        description: 'Base64.',
      }),
      replace: Type.Optional(Type.Boolean({ description: 'Also where there is one of this name.' })),
    },
    closed,
  ),
  answer: Type.Object({ name: Type.String(), result: Type.Enum(['created', 'replaced']) }),
  refusals: [415, 507],
  run: ({ body: { name, value, replace = false } }, { secrets, view, people }) => {
    const id = secretNamed(name)
    view.require('secrets', people.app(id))
    return { name: id, result: secrets.put(id, Buffer.from(value, 'base64'), { mayReplace: replace }) }
  },
})

const deleteSecret = operation({
  id: 'deleteSecret',
  needs: 'secrets secret',
  method: 'delete',
  path: '/secrets/{name}',
  summary: 'Deletes a secret that no service has',
  params: Type.Object({ name }),
  answer: Type.Object({ deleted: Type.Array(Type.String()) }),
  refusals: [404, 507],
  run: ({ params }, { secrets }) => {
    const id = secretNamed(params.name)
    secrets.delete(id)
    return { deleted: [id] }
  },
})

const createJoinTokenOperation = operation({
  id: 'createJoinToken',
  needs: 'operate given',
  method: 'post',
  path: '/join-tokens',
  summary: 'Makes a token with which one node, relay or cluster joins',
  isSecret: true,
  body: Type.Object(
    {
      role: Type.Enum(['node', 'cluster', 'relay']),
      cluster: Type.Optional(Label),
      ttlSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 31_536_000, description: 'An hour by default.' })),
    },
    closed,
  ),
  answer: Type.Object({
    token: Type.String(),
    expiresAt: Count,
    command: Type.String({ description: 'What to run there, with the token in a file.' }),
  }),
  refusals: [404, 415, 503, 504, 507],
  about: ({ body }) => (body as { cluster?: string }).cluster,
  run: ({ body }, context) => {
    const { role, cluster } = body
    const { view, people, store } = context
    if (role === 'cluster') view.require('mesh', { kind: 'mesh' })
    // the only cluster there is, which need not be named
    else
      for (const name of cluster === undefined ? store.clusters.keys() : [cluster])
        view.require('operate', people.cluster(name))
    return createJoinToken(body, context)
  },
})

export const SECRETS = [listSecrets, putSecret, deleteSecret, createJoinTokenOperation]
