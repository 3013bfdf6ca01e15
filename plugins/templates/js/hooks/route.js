/** Where does this entry of the ingress go? Here to where the backend says, and to `room:all`. */
export const route = {
  route(entry) {
    return { tag: 'channels', val: [...entry.to, 'room:all'] };
  },
};
