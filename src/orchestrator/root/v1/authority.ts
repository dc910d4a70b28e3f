import Type from 'typebox'
import { operation } from './operation.ts'
import { Authority } from './schemas.ts'

/** The certificate authority of the mesh, and its rotation. */

const Force = Type.Object(
  { force: Type.Optional(Type.Boolean({ description: 'Also where members are not ready for it.' })) },
  { additionalProperties: false },
)

const getAuthority = operation({
  id: 'getAuthority',
  needs: 'mesh mesh',
  path: '/authority',
  summary: 'The certificate authority, and how far its rotation is',
  answer: Authority,
  run: (_given, { rotation }) => rotation.status(),
})

const rotateAuthority = operation({
  id: 'rotateAuthority',
  needs: 'mesh mesh',
  method: 'post',
  path: '/authority/rotate',
  summary: 'Makes a new authority, which signs as soon as every member trusts it',
  body: Force,
  answer: Authority,
  refusals: [409, 415, 507],
  run: ({ body: { force = false } }, { rotation }) => rotation.rotate({ force }),
})

const retireAuthority = operation({
  id: 'retireAuthority',
  needs: 'mesh mesh',
  method: 'post',
  path: '/authority/retire',
  summary: 'Drops the authority that was replaced',
  body: Force,
  answer: Authority,
  refusals: [409, 415, 507],
  run: ({ body: { force = false } }, { rotation }) => rotation.retire({ force }),
})

export const AUTHORITY = [getAuthority, rotateAuthority, retireAuthority]
