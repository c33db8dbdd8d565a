import { EtcdError, etcdError, type EtcdErrorName, GRPC } from './etcd-error.js'
import type { FaceContext } from './face.js'
import { AuthListResponse, Empty, HeaderOnly } from './messages.js'
import { type Method, type Methods, unary } from './rpc.js'

/**
 * Who may come in is decided by client certificates; there are no users and roles. Questions about them get the answer of
 * an etcd that has none; making one is refused.
 */
export function authMethods(face: FaceContext): Methods {
  const refusing = (name: EtcdErrorName): Method => unary(Empty, HeaderOnly, () => Promise.reject(etcdError(name)))
  const unsupported = (what: string): Method =>
    unary(Empty, HeaderOnly, () =>
      Promise.reject(
        new EtcdError(
          GRPC.UNIMPLEMENTED,
          `etcdserver: ${what} is not supported: client certificates decide who may come in`,
        ),
      ),
    )
  const none = unary(Empty, AuthListResponse, async () => ({ header: face.header(await face.lastSeen()) }))
  return {
    '/etcdserverpb.Auth/AuthEnable': refusing('ROOT_USER_NOT_EXIST'),
    '/etcdserverpb.Auth/AuthDisable': unary(Empty, HeaderOnly, async () => ({
      header: face.header(await face.lastSeen()),
    })),
    '/etcdserverpb.Auth/Authenticate': refusing('AUTH_NOT_ENABLED'),
    '/etcdserverpb.Auth/UserAdd': unsupported('adding a user'),
    '/etcdserverpb.Auth/UserGet': refusing('USER_NOT_FOUND'),
    '/etcdserverpb.Auth/UserList': none,
    '/etcdserverpb.Auth/UserDelete': refusing('USER_NOT_FOUND'),
    '/etcdserverpb.Auth/UserChangePassword': refusing('USER_NOT_FOUND'),
    '/etcdserverpb.Auth/UserGrantRole': refusing('USER_NOT_FOUND'),
    '/etcdserverpb.Auth/UserRevokeRole': refusing('USER_NOT_FOUND'),
    '/etcdserverpb.Auth/RoleAdd': unsupported('adding a role'),
    '/etcdserverpb.Auth/RoleGet': refusing('ROLE_NOT_FOUND'),
    '/etcdserverpb.Auth/RoleList': none,
    '/etcdserverpb.Auth/RoleDelete': refusing('ROLE_NOT_FOUND'),
    '/etcdserverpb.Auth/RoleGrantPermission': refusing('ROLE_NOT_FOUND'),
    '/etcdserverpb.Auth/RoleRevokePermission': refusing('ROLE_NOT_FOUND'),
  }
}
